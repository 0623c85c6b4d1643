"""The judge: its ResNet is the published one, learns from shifted and mirrored pictures, and outlives its file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from erasediff.shards import Dataset, build
from erasediff.trainer.config import JudgeConfig, ResNetConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.classifier import (
    Classifier,
    features_of,
    is_as_asked,
    load_classifier,
    read_images,
    train_classifier,
)
from erasediff.trainer.evidence.collect import run_evaluate
from erasediff.trainer.evidence.features import make_features
from erasediff.trainer.evidence.learning import learn_shifted, shifted
from erasediff.trainer.evidence.networks import ResNet
from evidence_cases import tiny_evaluation
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CPU = torch.device("cpu")
TINY = ResNetConfig(blocks=(1, 1), width=8, num_epochs=4, batch_size=32, crop_padding=1, flip=False)
# the digits' classes the other way round
BACKWARDS = [str(digit) for digit in range(9, -1, -1)]


@pytest.mark.parametrize(
    ("blocks", "depth", "num_parameters"), [((2, 2, 2, 2), 18, 11_173_962), ((3, 4, 6, 3), 34, 21_282_122)]
)
def test_the_published_resnets(blocks: tuple[int, ...], depth: int, num_parameters: int) -> None:
    """For CIFAR-10's pictures and classes, by the counts that are known of them."""
    with torch.device("meta"):
        network = ResNet(3, 10, blocks, width=64)
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == depth  # and the head
    assert sum(value.numel() for value in network.parameters()) == num_parameters
    assert network.num_features == 512
    settings = JudgeConfig(architecture="resnet", resnet=ResNetConfig(blocks=blocks)).trained_resnet
    assert settings is not None and settings.width == 64


def by_hand(weights: dict[str, Tensor], x: Tensor, strides: list[int]) -> Tensor:
    """Features of a ResNet in evaluation mode, with convolutions and normalisations written out."""

    def convolved(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def normalised(x: Tensor, name: str) -> Tensor:
        mean, variance, scale, offset = (
            weights[f"{name}.{of}"].view(-1, 1, 1) for of in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + offset

    x = normalised(convolved(x, "features.0"), "features.1").relu()
    for number, stride in enumerate(strides, start=3):
        block = f"features.{number}"
        inside = normalised(convolved(x, f"{block}.first.0", stride), f"{block}.first.1").relu()
        inside = normalised(convolved(inside, f"{block}.second.0"), f"{block}.second.1")
        if f"{block}.past.0.weight" in weights:
            x = normalised(convolved(x, f"{block}.past.0", stride), f"{block}.past.1")
        x = (inside + x).relu()
    return x.mean((2, 3))


def test_a_resnet_computes_what_its_paper_says() -> None:
    torch.manual_seed(0)
    network = ResNet(3, 5, (1, 2, 1), width=4)
    x = torch.randn(6, 3, 12, 12)
    network.train()(x)  # running statistics of its own
    network.double().eval()
    weights = dict(network.state_dict())
    features = by_hand(weights, x.double(), strides=[1, 2, 1, 2])
    torch.testing.assert_close(network.features(x.double()), features)
    assert features.shape == (6, 16) and network.num_features == 16
    torch.testing.assert_close(network(x.double()), features @ weights["head.weight"].T + weights["head.bias"])


@pytest.mark.parametrize("flip", [False, True])
def test_every_shift_is_as_likely_and_nothing_else_happens(flip: bool) -> None:
    picture = torch.arange(1.0, 25.0).view(2, 3, 4)
    padded = np.pad(picture.numpy(), ((0, 0), (1, 1), (1, 1)))
    expected = {}
    for down in range(3):
        for right in range(3):
            crop = padded[:, down : down + 3, right : right + 4]
            expected[crop.tobytes()] = (down, right, False)
            if flip:
                expected[np.ascontiguousarray(crop[:, :, ::-1]).tobytes()] = (down, right, True)
    torch.manual_seed(0)
    seen = shifted(picture.expand(9000, 2, 3, 4), 1, flip=flip)
    counts = dict.fromkeys(expected.values(), 0)
    for one in seen:
        counts[expected[np.ascontiguousarray(one.numpy()).tobytes()]] += 1
    # binomial, to six standard deviations
    share = 1 / len(counts)
    assert len(counts) == (18 if flip else 9)
    assert all(abs(count - 9000 * share) < 6 * (9000 * share * (1 - share)) ** 0.5 for count in counts.values())


def test_each_picture_keeps_its_place() -> None:
    """What is drawn for one is not another's: beside its class it would be a wrong label."""
    pictures = torch.arange(1.0, 33.0).view(32, 1, 1, 1).expand(32, 1, 6, 6)
    seen = shifted(pictures, 2, flip=True)
    assert seen.amax((1, 2, 3)).tolist() == list(range(1, 33))
    # with channels last in memory torch 2.13 crashes on a CPU, see `shifted`
    assert seen.is_contiguous() and shifted(torch.zeros(8, 3, 32, 32), 4, flip=True).is_contiguous()
    assert torch.equal(shifted(pictures, 0, flip=False), pictures)


@pytest.fixture(scope="module")
def judge(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A tiny ResNet that learned real digits, whose classes count backwards."""
    data = build("digits", tmp_path_factory.mktemp("backwards") / "data", classes=BACKWARDS)
    return train_classifier(data, image_size=8, channels=1, resnet=TINY)


def test_a_resnet_learns_what_its_classes_are_called(judge: Classifier, digits: Path) -> None:
    card = judge.card
    assert card.held_out_accuracy > 0.9 and card.num_held_out == 449
    assert card.name == "digits-resnet6" and card.classes == tuple(BACKWARDS)
    data = Dataset.open(digits / "data")
    batch = read_images(data, 8, 1)
    probabilities = judge.probabilities(torch.from_numpy(batch.images))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(data)))
    called = [card.classes[place] for place in probabilities.argmax(1).tolist()]
    right = [name == data.classes[label] for name, label in zip(called, batch.labels.tolist(), strict=True)]
    assert sum(right) / len(right) > 0.9


def test_a_resnet_outlives_its_file(judge: Classifier, tmp_path: Path) -> None:
    judge.save(tmp_path / "judge")
    with safe_open(tmp_path / "judge", "pt") as file:
        about = file.metadata()
    assert about["format"] == "erasediff-classifier-3"
    read = load_classifier(tmp_path / "judge")
    assert read.card == judge.card and read.card.resnet == TINY
    images = torch.randn(700, 1, 8, 8)
    assert torch.equal(read.probabilities(images), judge.probabilities(images))
    features = make_features("classifier", read)
    assert torch.equal(features(images), judge.features(images)) and features(images).shape == (700, 16)
    assert (features.name, features.num_features) == ("digits-resnet6", 16)
    # weights that are not those of the layers that it names
    card = json.loads(about["card"])
    for name, changed in (("deeper", {"blocks": [1, 2]}), ("other", {"layers": 3}), ("none", {"blocks": []})):
        other = card | {"resnet": card["resnet"] | changed}
        save_file(load_file(tmp_path / "judge"), tmp_path / name, about | {"card": json.dumps(other)})
        with pytest.raises(ConfigError, match=f"{name}' is damaged: leave it out"):
            load_classifier(tmp_path / name)


def test_a_file_of_before_there_was_a_choice_is_a_small_cnns(classifier: Path, tmp_path: Path) -> None:
    with safe_open(classifier, "pt") as file:
        about = file.metadata()
    card = json.loads(about["card"])
    known = {name: value for name, value in card.items() if name != "resnet"}
    save_file(load_file(classifier), tmp_path / "older", about | {"card": json.dumps(known)})
    assert about["format"] == "erasediff-classifier-1"
    assert load_classifier(tmp_path / "older").card == load_classifier(classifier).card


def test_whether_a_judge_is_the_one_that_is_asked_for(judge: Classifier, digits: Path, classifier: Path) -> None:
    data, small = Dataset.open(digits / "data"), load_classifier(classifier).card
    other_data = dataclasses.replace(small, data_fingerprint=judge.card.data_fingerprint)
    asked = JudgeConfig(architecture="resnet", resnet=TINY)
    same = dataclasses.replace(judge.card, data_fingerprint=data.fingerprint)
    assert is_as_asked(same, asked, data) and is_as_asked(small, JudgeConfig(), data)
    changes: list[dict[str, Any]] = [{"width": 4}, {"blocks": (1, 2)}, {"num_epochs": 9}, {"flip": not TINY.flip}]
    for changed in changes:
        resnet = dataclasses.replace(TINY, **changed)
        assert not is_as_asked(same, dataclasses.replace(asked, resnet=resnet), data)
    assert not is_as_asked(small, asked, data) and not is_as_asked(same, JudgeConfig(), data)
    assert not is_as_asked(other_data, JudgeConfig(), data)
    assert features_of(asked, data) == ("digits-resnet6", 16)
    assert features_of(JudgeConfig(), data) == ("digits-cnn", 128)


def test_training_is_a_function_of_its_seed_and_leaves_torchs_alone(digits: Path) -> None:
    data = Dataset.open(digits / "data")
    some = data.only(np.arange(len(data)) < 120)
    once = dataclasses.replace(TINY, num_epochs=1)
    found = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        before = torch.random.get_rng_state()
        found.append(train_classifier(some, image_size=8, channels=1, seed=seed, resnet=once).card)
        assert torch.equal(before, torch.random.get_rng_state())
    hashes = [card.weights_sha256 for card in found]
    assert hashes[0] == hashes[1] != hashes[2]


def test_it_learns_by_its_settings() -> None:
    """Two steps against torch by hand: SGD with Nesterov's momentum and decay, a cosine that would end at 0."""
    torch.manual_seed(0)
    images, labels = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 0, 1, 1])
    config = ResNetConfig((1,), 3, num_epochs=2, batch_size=4, learning_rate=0.2, weight_decay=0.1, crop_padding=1)
    network, other = (ResNet(1, 2, (1,), width=3) for _ in range(2))
    other.load_state_dict(network.state_dict())
    torch.manual_seed(1)
    learn_shifted(network, images, labels, config, CPU)
    torch.manual_seed(1)
    momenta = [torch.zeros_like(value) for value in other.parameters()]
    for rate in (0.2, 0.1):
        rows = torch.randperm(5)[:4]  # the fifth fills no batch
        seen = shifted(images[rows], 1, flip=True)
        F.cross_entropy(other.train()(seen), labels[rows]).backward()
        with torch.no_grad():
            for value, momentum in zip(other.parameters(), momenta, strict=True):
                assert value.grad is not None
                gradient = value.grad + 0.1 * value
                momentum.mul_(0.9).add_(gradient)
                value -= rate * (gradient + 0.9 * momentum)
                value.grad = None
    for ours, theirs in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_evaluation_with_a_resnet(digits: Path, run: Path, tmp_path: Path) -> None:
    """All that counts features takes their number and their name from it."""
    once = dataclasses.replace(TINY, num_epochs=1)
    limit = ("frechet_distance[digits-resnet6] <= 100 * unscrubbed",)
    options: dict[str, Any] = {"architecture": "resnet", "resnet": once, "relearn": True, "thresholds": limit}
    # 9 · 2 samples: enough for 16 features, too few for the small CNN's 128
    evaluation = tiny_evaluation(run, digits, None, num_remain_samples_per_class=2, **options)
    found = run_evaluate(evaluation, output=tmp_path)
    card = found.record.classifier
    assert card.resnet == once
    metrics = found.record.models["scrubbed"].metrics
    assert metrics["frechet_distance[digits-resnet6]"].value is not None
    assert load_classifier(run / "classifier.safetensors").card == card
    with pytest.raises(ConfigError, match=r"needs 17 samples, and .* makes 9: raise it"):
        judge = dataclasses.replace(evaluation.judge, num_remain_samples_per_class=1)
        run_evaluate(dataclasses.replace(evaluation, judge=judge))
    # one that is named counts as many as it has, whatever would be trained
    named = dataclasses.replace(
        evaluation.judge, architecture="cnn", classifier=str(run / "classifier.safetensors"), relearn=False
    )
    again = run_evaluate(dataclasses.replace(evaluation, judge=named), output=tmp_path)
    assert again.record.classifier == card


def test_a_resnet_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"judge\.resnet\.blocks is empty"):
        ResNetConfig(blocks=())


def test_a_resnet_trains_at_its_published_rate() -> None:
    """He et al. (arXiv 1512.03385): SGD from .1 on CIFAR-10; a step five times as long is another judge."""
    assert ResNetConfig().learning_rate == 0.1


def test_a_judge_with_a_weight_that_is_no_number_is_refused(judge: Classifier, digits: Path, tmp_path: Path) -> None:
    judge.save(tmp_path / "whole.safetensors")
    weights, about = (
        load_file(tmp_path / "whole.safetensors"),
        safe_open(tmp_path / "whole.safetensors", "pt").metadata(),
    )
    for value in (float("nan"), float("inf")):
        weights["head.bias"][1] = value
        save_file(weights, tmp_path / "broken.safetensors", about)
        with pytest.raises(
            ConfigError, match=r"judge\.factor_classifier = '.*broken.* weights head\.bias are not finite"
        ):
            load_classifier(tmp_path / "broken.safetensors", "judge.factor_classifier")
    hasty = dataclasses.replace(TINY, num_epochs=1, learning_rate=1e38)
    with pytest.raises(
        ConfigError, match=r"data' has weights .* not finite: lower judge\.resnet\.learning_rate, or name"
    ):
        train_classifier(Dataset.open(digits / "data"), image_size=8, channels=1, resnet=hasty)
