"""A run to submit."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def run_toml(digits: Path, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scrub's settings, relative to the folder that this process works in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").symlink_to(digits)
    (tmp_path / "base").symlink_to(base_model)
    path = tmp_path / "run.toml"
    path.write_text(
        'forget = "digits/split/forget"\nremain = "digits/split/remain"\noutput = "run"\n'
        '[model]\npath = "base"\nnull_class = 10\n[train]\nmax_train_steps = 2\n'
    )
    return path
