"""What makes an evaluation that is there no answer any more."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from erasediff.shards import Dataset, build
from erasediff.shards.sources.digits import read_digits
from erasediff.trainer.config import JudgeConfig, ModelConfig
from erasediff.trainer.evidence.collect import run_evaluate
from erasediff.trainer.evidence.record import Record
from erasediff.trainer.evidence.reuse import still_holds
from evidence_cases import make_clip, tiny_evaluation
from PIL import Image


@pytest.fixture(scope="module")
def evaluated(
    digits: Path, run: Path, classifier: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Record, JudgeConfig, str]:
    clip = tmp_path_factory.mktemp("judge") / "clip"
    make_clip(clip)
    evaluation = tiny_evaluation(run, digits, classifier, features=str(clip))
    return run_evaluate(evaluation).record, evaluation.judge, evaluation.data


def test_another_frozen_part(run: Path, evaluated: tuple[Record, JudgeConfig, str]) -> None:
    record, judge, data = evaluated
    assert still_holds(record, judge, data, run, ModelConfig(str(run / "model")))
    scrubbed = dataclasses.replace(record.models["scrubbed"], frozen_sha256={"vae": "0" * 64})
    other = dataclasses.replace(record, models=record.models | {"scrubbed": scrubbed})
    assert not still_holds(other, judge, data, run, ModelConfig(str(run / "model")))


def test_a_judge_of_other_data(run: Path, evaluated: tuple[Record, JudgeConfig, str], tmp_path: Path) -> None:
    """Of every class as before, each called by the next one's name."""
    record, judge, data = evaluated
    model, unnamed = ModelConfig(str(run / "model")), dataclasses.replace(judge, classifier=None)
    assert still_holds(record, unnamed, data, run, model)
    pixels, labels = read_digits()
    for digit in range(10):
        (tmp_path / "pictures" / str((digit + 1) % 10)).mkdir(parents=True)
        picture = Image.fromarray(pixels[labels == digit][0])
        picture.save(tmp_path / "pictures" / str((digit + 1) % 10) / "0.png")
    build(tmp_path / "pictures", tmp_path / "shifted")
    assert Dataset.open(tmp_path / "shifted").classes == Dataset.open(data).classes
    assert not still_holds(record, unnamed, str(tmp_path / "shifted"), run, model)
    assert not still_holds(dataclasses.replace(record, data=None), unnamed, data, run, model), "an older record"


def test_other_features_behind_the_same_path(run: Path, evaluated: tuple[Record, JudgeConfig, str]) -> None:
    record, judge, data = evaluated
    config = Path(judge.features) / "config.json"
    before = config.read_text()
    config.write_text(before.replace('"quick_gelu"', '"gelu"'))
    assert config.read_text() != before
    assert not still_holds(record, judge, data, run, ModelConfig(str(run / "model"))), "another activation"
    config.write_text(before)
    assert still_holds(record, judge, data, run, ModelConfig(str(run / "model")))
    make_clip(Path(judge.features), seed=1)
    config.write_text(before)
    assert not still_holds(record, judge, data, run, ModelConfig(str(run / "model"))), "other weights"
