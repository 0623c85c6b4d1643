"""The judges of a comparison: trained once where none was named, and what counts of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from erasediff.shards.dataset import Dataset
from erasediff.trainer.comparing.judges import named_judges
from erasediff.trainer.comparing.sides import Sides, measured_by
from erasediff.trainer.config import CompareConfig, JudgeConfig, ResNetConfig, ScrubConfig
from erasediff.trainer.evidence.classifier import load_classifier
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_config

RESNET = ResNetConfig(blocks=(1,), width=8, num_epochs=1, flip=False)


@pytest.fixture(scope="module")
def sides(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Sides:
    return Sides.of(tiny_config(digits, base_model, tmp_path_factory.mktemp("judges")))


def comparison(scrub: ScrubConfig, digits: Path, output: Path, judge: JudgeConfig) -> CompareConfig:
    return CompareConfig(
        output=str(output),
        model=scrub.model,
        data=str(digits / "data"),
        forget=scrub.forget,
        remain=scrub.remain,
        methods={"finetune": {"method": {"name": "finetune"}}},
        judge=judge,
    )


def test_each_judge_is_trained_once_as_it_is_asked_for(sides: Sides, digits: Path, tmp_path: Path) -> None:
    factor = str(digits / "split" / "remain")

    def made(width: int) -> tuple[JudgeConfig, list[int]]:
        judge = JudgeConfig(
            architecture="resnet", resnet=dataclasses.replace(RESNET, width=width), factor=factor, device="cpu"
        )
        named = named_judges(comparison(sides.config, digits, tmp_path, judge), sides, torch.device("cpu"))
        paths = [Path(str(named.classifier)), Path(str(named.factor_classifier))]
        cards = [load_classifier(path).card for path in paths]
        assert [path.name for path in paths] == ["classifier.safetensors", "factor_classifier.safetensors"]
        trained_on = [Dataset.open(path).fingerprint for path in (digits / "data", factor)]
        assert [card.data_fingerprint for card in cards] == trained_on
        assert all(card.resnet is not None and card.resnet.width == width for card in cards)
        return named, [path.stat().st_mtime_ns for path in paths]

    named, first = made(8)
    assert made(8) == (named, first)
    Path(str(named.factor_classifier)).write_bytes(b"torn")
    _, torn = made(8)
    assert torn[0] == first[0] and torn[1] != first[1]
    _, other = made(4)
    assert all(now != before for now, before in zip(other, torn, strict=True))


def test_a_judge_counts_by_its_weights(sides: Sides, digits: Path, classifier: Path, tmp_path: Path) -> None:
    data = Dataset.open(digits / "data")

    def by(path: Path, name: str = "classifier") -> str:
        asked = JudgeConfig()
        return measured_by(asked, dataclasses.replace(asked, **{name: str(path)}), sides, data)

    weights, stored = load_file(classifier), tmp_path / "stored.safetensors"
    with safe_open(classifier, framework="pt") as file:
        about = file.metadata()
    save_file(weights, stored, {**about, "more": "bytes"})
    assert stored.read_bytes() != classifier.read_bytes()
    assert by(stored) == by(classifier) and by(stored, "factor_classifier") == by(classifier, "factor_classifier")
    assert by(stored) != by(stored, "factor_classifier")
    same = by(stored)
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, stored, about)
    assert by(stored) != same
