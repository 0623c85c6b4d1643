"""What is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
from evidence_cases import make_run


@pytest.fixture(scope="module")
def run(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(digits, base_model, tmp_path_factory.mktemp("run") / "scrub")
