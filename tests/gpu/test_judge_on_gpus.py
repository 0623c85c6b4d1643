"""A judge that was trained on CUDA is the same on a CPU. Skipped where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from erasediff.shards import Dataset
from erasediff.trainer.config import ResNetConfig
from erasediff.trainer.evidence.classifier import load_classifier, read_images, train_classifier
from erasediff.trainer.evidence.learning import shifted

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_a_judge_that_was_trained_on_cuda(digits: Path, tmp_path: Path) -> None:
    cuda, data = torch.device("cuda"), Dataset.open(digits / "data")
    resnet = ResNetConfig(blocks=(1, 1), width=8, num_epochs=4, batch_size=32, crop_padding=1, flip=False)
    judge = train_classifier(data, image_size=8, channels=1, resnet=resnet, device=cuda)
    assert judge.card.held_out_accuracy > 0.9
    judge.save(tmp_path / "judge")
    read = load_classifier(tmp_path / "judge")
    assert read.card == judge.card
    images = torch.from_numpy(read_images(data, 8, 1).images)
    on_cpu, features = read.probabilities(images), read.features(images)
    moved = read.to(cuda)
    for ours, theirs in ((moved.probabilities(images), on_cpu), (moved.features(images), features)):
        assert ours.device.type == "cpu"
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_what_is_drawn_is_the_same_on_both() -> None:
    images, seen = torch.randn(40, 3, 9, 9), []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        seen.append(shifted(images.to(device), 3, flip=True).cpu())
    assert torch.equal(*seen)
