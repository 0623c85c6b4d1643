from pathlib import Path

import pytest
from concept_cases import REQUEST, config_of
from erasediff.trainer.concepts.generate import run_generate
from tiny_text import make_pipeline


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, request.toml"""
    folder = tmp_path_factory.mktemp("concept")
    make_pipeline(folder / "model")
    (folder / "request.toml").write_text(REQUEST)
    return folder


@pytest.fixture(scope="session")
def drawn(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/, data/, split/ of it."""
    return run_generate(config_of(given, tmp_path_factory.mktemp("drawn") / "out"))
