"""Runs on every rank of one world size: reads a checkpoint at each stage asked for, and writes one after three steps.

Arguments: the folder results go to, the run folder to read (or none), the one to write, and the stages.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from engine_cases import METHODS, OPTIMIZERS, Case, global_batch, make_module, micro_batches
from engine_worker import ToyObjective
from erasediff.trainer.config import EngineConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.methods import Update
from erasediff.trainer.ranks import collectives
from erasediff.trainer.run.attempts import Attempt
from erasediff.trainer.run.checkpoint import Checkpoints
from erasediff.trainer.run.identity import Identity
from safetensors.torch import save_file

METHOD = METHODS["envelope-norm"]


def update(model: ShardedModel, step: int) -> Update:
    method = METHOD.make(ToyObjective())
    rank, world_size = collectives.rank(), collectives.world_size()
    remain: Any = micro_batches(global_batch(step, True), rank, world_size)
    forget: Any = micro_batches(global_batch(step, False), rank, world_size)
    return method.step(model, forget, remain, step, diagnose=False)


def record(model: ShardedModel, step: int, path: Path) -> None:
    """Every vector a checkpoint holds, whole, and the δ of the next step; rank 0 writes them."""
    held = {"theta": model.theta} | model.optimizer.vectors()
    held["delta"] = update(model, step).delta
    whole = {f"{name}/{key}": value for name in held for key, value in model.gather(held[name]).items()}
    if collectives.is_main():
        save_file(whole, path)


def main() -> None:
    output, read, written, *stages = sys.argv[1:]
    device = collectives.set_up(EngineConfig(device="cpu", num_threads=1))
    world_size = collectives.world_size()
    for stage in map(int, stages):
        case = Case("envelope-norm", "adamw", stage, "fp32")
        engine = EngineConfig(device="cpu", zero_stage=stage)  # pyright: ignore[reportArgumentType]
        model = ShardedModel(make_module(), engine, OPTIMIZERS[case.optimizer], device, max_train_steps=10)
        step = 0
        if read != "none":
            checkpoints = Checkpoints(Attempt.create(Path(read)), 1, Identity({}, frozenset()))
            step = checkpoints.restore_newest(model).step
            assert step > 0
            record(model, step, Path(output) / f"read-{world_size}-zero{stage}.safetensors")
        if written != "none":
            for step in range(step, step + 3):  # noqa: B020 counts on
                done = update(model, step)
                model.step(done.delta, step, done.skip)
            attempt = Attempt.create(Path(written))
            attempt.begin(None, 0)
            checkpoints = Checkpoints(attempt, 1, Identity({}, frozenset()))
            checkpoints.save(model, step + 1)
            record(model, step + 1, Path(output) / f"written-{world_size}.safetensors")
            checkpoints.wait()
    collectives.end_process(0)


if __name__ == "__main__":
    main()
