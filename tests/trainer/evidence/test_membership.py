"""The membership test, by hand and on a model that has memorised."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers import DDPMScheduler
from erasediff.shards.dataset import Dataset
from erasediff.trainer.config import (
    ModelConfig,
)
from erasediff.trainer.evidence.images import Images
from erasediff.trainer.evidence.membership import auc_of, membership_auc, sample_losses
from erasediff.trainer.models.families import load_model
from erasediff.trainer.randomness import sample_generator

CPU = torch.device("cpu")


def test_membership_by_the_loss(base_model: Path, digits: Path) -> None:
    model = load_model(ModelConfig(str(base_model), null_class=10))
    shown = Images.of_data(Dataset.open(digits / "data"), model, 22)
    images, labels = shown.images, shown.labels
    about: dict[str, Any] = {"seed": 4, "batch_size": 16, "device": CPU}
    losses = sample_losses(model, shown, **about)
    scheduler: Any = DDPMScheduler()

    # the last image, of the second batch, by hand: noised by diffusers' scheduler
    generator = sample_generator(4, "membership", 21)
    noise = torch.from_numpy(generator.standard_normal((20, 1, 8, 8), dtype="float32"))
    levels = torch.arange(25, 1000, 50)
    x_t = scheduler.add_noise(images[-1:].expand(20, -1, -1, -1), noise, cast(torch.IntTensor, levels))
    with torch.no_grad():
        output = model.module(x_t, levels, class_labels=labels[-1:].expand(20)).sample
    assert losses[-1].item() == pytest.approx((output - noise).square().mean().item(), rel=1e-5)

    members, others = shown.where(torch.arange(12)), shown.where(torch.arange(12, 22))
    before = membership_auc(model, members, others, **about)
    assert before.low is not None and before.high is not None and before.high - before.low < 0.7
    few = membership_auc(model, shown.where(torch.arange(9)), others, **about)
    assert (few.low, few.high) == (0, 1), "nine members tell nothing"
    optimizer = torch.optim.Adam(model.module.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(250):
        noise = torch.randn(members.images.shape, generator=generator)
        t = torch.randint(0, 1000, (12,), generator=generator)
        x_t = scheduler.add_noise(members.images, noise, cast(torch.IntTensor, t))
        loss = (model.module(x_t, t, class_labels=members.labels).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = membership_auc(model, members, others, **about)
    assert before.n == after.n == 22
    assert before.value is not None and after.value is not None
    assert after.value > max(before.value, 0.7)


def test_members_that_are_all_told_apart_are_not_certain() -> None:
    """By Wilson's interval of 12 of 12: n / (n + z²)."""
    found = auc_of([torch.arange(12.0), torch.arange(20.0) + 12], seed=0)
    assert found.value == found.high == 1
    assert found.low == pytest.approx(12 / (12 + 1.959964**2), rel=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_of_an_auc_ends_where_it_can(sign: int) -> None:
    members, others = torch.arange(20.0), torch.arange(20.0) + 18.5
    found = auc_of([sign * members, sign * others], seed=0)
    assert found.value is not None and 0.9 < max(found.value, 1 - found.value) < 1
    assert found.low is not None and found.high is not None
    # all of it is on one side of .5, and it goes no further than an AUC can
    if sign > 0:
        assert 0.5 < found.low < found.value < found.high == 1.0
    else:
        assert 0.5 > found.high > found.value > found.low == 0.0
