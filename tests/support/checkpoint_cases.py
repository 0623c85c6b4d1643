"""A tiny sharded model and its checkpoints, for tests of saving and restoring."""

from __future__ import annotations

from pathlib import Path

import torch
from erasediff.trainer.config import EngineConfig, OptimizerConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.ranks import collectives
from erasediff.trainer.run.attempts import Attempt
from erasediff.trainer.run.checkpoint import Checkpoints
from erasediff.trainer.run.identity import Identity
from torch import Tensor, nn

NO_SKIP = torch.zeros((), dtype=torch.float64)
SLICES = "rank-00000-of-00001.safetensors"


class Odd(nn.Module):
    def __init__(self, width: int = 7) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(5, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def make_model(stage: int = 2, width: int = 7) -> ShardedModel:
    config = EngineConfig(device="cpu", zero_stage=stage)  # pyright: ignore[reportArgumentType]
    device = collectives.set_up(config)
    return ShardedModel(Odd(width), config, OptimizerConfig(ema_decay=0.5), device, max_train_steps=100)


def advance(model: ShardedModel, steps: range) -> None:
    for step in steps:
        model.step(model.theta.clone(), step, NO_SKIP)


def vectors(model: ShardedModel) -> dict[str, Tensor]:
    held = {"theta": model.theta} | model.optimizer.vectors()
    return {f"{name}/{parameter}": value for name in held for parameter, value in model.gather(held[name]).items()}


def begin(run: Path, model: ShardedModel, keep: int = 2, **identity: object) -> tuple[Checkpoints, int]:
    """A new attempt at the run, with what the earlier ones left in `model`; its checkpoints, and its first step."""
    attempt = Attempt.create(run)
    checkpoints = Checkpoints(attempt, keep, Identity({"train.seed": 0} | identity, frozenset({"train.new"})))
    beginning = checkpoints.restore_newest(model)
    attempt.begin(beginning.folder, beginning.step)
    return checkpoints, beginning.step


def save(checkpoints: Checkpoints, model: ShardedModel, step: int) -> dict[str, Tensor]:
    """Takes the step before, saves and waits; returns what was saved."""
    advance(model, range(step - 1, step))
    checkpoints.save(model, step)
    checkpoints.wait()
    return vectors(model)


def names(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.glob("attempt-*/checkpoint-*"))


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
