"""Dropout is that of plain torch, seeded by what a step is; without a seed there is none."""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from erasediff.trainer.config import EngineConfig, OptimizerConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.ranks import collectives
from torch import Tensor, nn


@dataclass(frozen=True)
class Rows:
    x: Tensor
    weights: Tensor


def loss(model: ShardedModel, batch: Rows) -> Tensor:
    return model.predict(batch.x).square().mean(1)


def sharded(module: nn.Module, seed: int | None) -> ShardedModel:
    config = EngineConfig(device="cpu")
    device = collectives.set_up(config)
    return ShardedModel(module, config, OptimizerConfig(), device, max_train_steps=1, dropout_seed=seed)


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 3))


BATCHES = [Rows(torch.linspace(-1, 1, 20).reshape(4, 5) + i, torch.ones(4)) for i in range(2)]


def by_hand(module: nn.Module, seed: int, step: int) -> dict[str, Tensor]:
    """Autograd in training mode, torch seeded before each micro-batch with Philox's number for it."""
    module = copy.deepcopy(module).train()
    key = np.array([seed, zlib.crc32(b"dropout")], dtype=np.uint64)
    for number, batch in enumerate(BATCHES, start=1):
        philox = np.random.Philox(key=key, counter=[0, 0, 0, (step << 32) + (number << 16)])
        torch.manual_seed(int(np.random.Generator(philox).integers(2**63)))
        (module(batch.x).square().mean(1).sum() / 8).backward()
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("step", [0, 3])
def test_a_gradient_drops_what_its_step_says(module: nn.Module, step: int) -> None:
    expected, plain = by_hand(module, 7, step), copy.deepcopy(module).eval()
    model = sharded(module, seed=7)
    model.begin(step)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    found = [model.gather(model.gradient(loss, BATCHES)[1]) for _ in range(2)]
    assert torch.equal(before, torch.random.get_rng_state())
    for name, value in expected.items():
        # every loss of a step has the same masks
        assert torch.equal(found[0][name], found[1][name])
        torch.testing.assert_close(found[0][name], value, rtol=1e-5, atol=1e-7)
    model.begin(step + 1)
    (_, other) = model.gradient(loss, BATCHES)
    assert not torch.equal(model.gather(other)["0.weight"], found[0]["0.weight"])
    with torch.no_grad():  # passes without a gradient have none
        assert torch.equal(model.predict(BATCHES[0].x), plain(BATCHES[0].x))


def test_without_a_seed_nothing_is_dropped(module: nn.Module) -> None:
    plain = copy.deepcopy(module).eval()
    sum(plain(batch.x).square().mean(1).sum() / 8 for batch in BATCHES).backward()  # pyright: ignore[reportAttributeAccessIssue]
    model = sharded(module.train(), seed=None)
    found = model.gather(model.gradient(loss, BATCHES)[1])
    for name, value in plain.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(found[name], value.grad, rtol=1e-5, atol=1e-7)
