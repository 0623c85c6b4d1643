"""What a run will take on the disk, against what it writes."""

from __future__ import annotations

import pytest
import torch
from erasediff.trainer.config import OptimizerConfig, TrainConfig
from erasediff.trainer.engine.optimizer import OuterOptimizer, vector_names
from erasediff.trainer.engine.vector import Layout, Segment, ShardedVector
from erasediff.trainer.run.room import checkpoint_bytes, most_checkpoints
from erasediff.trainer.run.slices import RankSlices


@pytest.mark.parametrize(
    "config",
    [OptimizerConfig(), OptimizerConfig(name="sgd"), OptimizerConfig(name="sgd", momentum=0.9, ema_decay=0.5)],
)
def test_what_a_checkpoint_takes_is_what_the_optimizer_saves(config: OptimizerConfig) -> None:
    layout = Layout((Segment("a", 0, 6, 0), Segment("b", 0, 5, 6)), 11, {"a": (2, 3), "b": (5,)})
    theta = ShardedVector(layout, torch.ones(11))
    optimizer = OuterOptimizer(theta, config, 4)
    optimizer.step(theta.clone(), 0, torch.tensor(0))
    assert list(optimizer.vectors()) == vector_names(config)
    held = {"theta": theta} | optimizer.vectors()
    saved = RankSlices({name: vector.data for name, vector in held.items()}, layout).num_bytes
    assert checkpoint_bytes(layout.shapes, config) == saved
    kept = RankSlices({name: vector.data for name, vector in (held | {"mask": theta}).items()}, layout).num_bytes
    assert checkpoint_bytes(layout.shapes, config, 1) == pytest.approx(kept, abs=64)


def test_a_new_checkpoint_lies_beside_the_old_ones() -> None:
    assert most_checkpoints(TrainConfig(checkpointing_steps=5, checkpoints_total_limit=2)) == 3
    assert most_checkpoints(TrainConfig()) == 1
