"""Data of which single samples are to be forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
from erasediff.shards import Dataset, split


@pytest.fixture(scope="session")
def single_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """split/forget holds every seventieth of the digits, split/remain the others."""
    folder = tmp_path_factory.mktemp("single")
    keys = Dataset.open(digits / "data").keys[::70]
    (folder / "request.toml").write_text(f"[[selectors]]\nkeys = {[*keys]}\n")
    split(digits / "data", folder / "split", request=folder / "request.toml")
    return folder
