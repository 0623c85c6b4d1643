"""What commands are given."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def run_toml(digits: Path, base_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(
        f"""
forget = "{digits}/split/forget"
remain = "{digits}/split/remain"
output = "{tmp_path}/run"

[model]
path = "{base_model}"
null_class = 10

[train]
max_train_steps = 2
train_batch_size = 4

[engine]
device = "cpu"
"""
    )
    return path
