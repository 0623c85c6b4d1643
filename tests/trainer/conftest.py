"""What an erasure and its evidence need."""

from __future__ import annotations

from pathlib import Path

import pytest
from erasediff.trainer.config import EngineConfig, EraseConfig, ModelConfig, TrainConfig
from evidence_cases import make_classifier, tiny_judge


@pytest.fixture(scope="session")
def classifier(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(digits, tmp_path_factory.mktemp("judge") / "classifier.safetensors")


@pytest.fixture
def config(digits: Path, base_model: Path, classifier: Path, tmp_path: Path) -> EraseConfig:
    """Erases the class 3 in three steps."""
    (tmp_path / "request.toml").write_text('id = "r-1"\ndate = 2026-11-20\n[[selectors]]\nlabels = ["3"]\n')
    return EraseConfig(
        request=str(tmp_path / "request.toml"),
        model=ModelConfig(str(base_model), null_class=10),
        data=str(digits / "data"),
        output=str(tmp_path / "erased"),
        train=TrainConfig(max_train_steps=3, train_batch_size=4),
        engine=EngineConfig(device="cpu"),
        judge=tiny_judge(classifier),
        # three steps of a tiny model show nothing
        publish="within-limits",
    )
