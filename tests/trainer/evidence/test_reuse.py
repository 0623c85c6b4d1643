"""What makes an evaluation that is there no answer any more."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from erasediff.trainer.config import JudgeConfig, ModelConfig
from erasediff.trainer.evidence.collect import run_evaluate
from erasediff.trainer.evidence.record import Record
from erasediff.trainer.evidence.reuse import still_holds
from evidence_cases import make_clip, tiny_evaluation


@pytest.fixture(scope="module")
def evaluated(
    digits: Path, run: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Record, JudgeConfig]:
    clip = tmp_path_factory.mktemp("judge") / "clip"
    make_clip(clip)
    evaluation = tiny_evaluation(run, digits, classifier, features=str(clip))
    return run_evaluate(evaluation).record, evaluation.judge


def test_another_frozen_part(run: Path, evaluated: tuple[Record, JudgeConfig]) -> None:
    record, judge = evaluated
    assert still_holds(record, judge, run, ModelConfig(str(run / "model")))
    scrubbed = dataclasses.replace(record.models["scrubbed"], frozen_sha256={"vae": "0" * 64})
    other = dataclasses.replace(record, models=record.models | {"scrubbed": scrubbed})
    assert not still_holds(other, judge, run, ModelConfig(str(run / "model")))


def test_other_features_behind_the_same_path(run: Path, evaluated: tuple[Record, JudgeConfig]) -> None:
    record, judge = evaluated
    config = Path(judge.features) / "config.json"
    before = config.read_text()
    config.write_text(before.replace('"quick_gelu"', '"gelu"'))
    assert config.read_text() != before
    assert not still_holds(record, judge, run, ModelConfig(str(run / "model"))), "another activation"
    config.write_text(before)
    assert still_holds(record, judge, run, ModelConfig(str(run / "model")))
    make_clip(Path(judge.features), seed=1)
    config.write_text(before)
    assert not still_holds(record, judge, run, ModelConfig(str(run / "model"))), "other weights"
