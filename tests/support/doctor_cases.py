"""A run to be looked at, and the look at it."""

from __future__ import annotations

from pathlib import Path

from erasediff.launch.doctor.command import Doctor
from erasediff.launch.doctor.examine import examine
from erasediff.launch.doctor.finding import Finding


def write_run(digits: Path, base_model: Path, tmp_path: Path) -> Path:
    """Settings of a scrub."""
    path = tmp_path / "run.toml"
    path.write_text(
        f"""
forget = "{digits}/split/forget"
remain = "{digits}/split/remain"
output = "{tmp_path}/run"
model = {{ path = "{base_model}", null_class = 10 }}
train = {{ checkpointing_steps = 5 }}
engine = {{ device = "cpu" }}
"""
    )
    return path


def look(*words: object) -> dict[str, Finding]:
    """By what was looked at, in this process alone."""
    config = Doctor.read([str(word) for word in words], "erasediff launch doctor").config
    return {finding.what: finding for finding in examine(config)}
