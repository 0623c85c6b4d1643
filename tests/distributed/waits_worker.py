"""Runs on every rank of one world size: where steps of stage 3 wait for the device; written by rank 0 as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engine_cases import METHODS, OPTIMIZERS, SPREADS, Case, make_module
from engine_steps import AskingObjective, made, make_model, update
from erasediff.trainer.config import EngineConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.ranks import collectives
from late_device import LateDevice, Reads, set_late_device

METHOD = "envelope-value-K3"


def run(spread: str, device: torch.device, late: LateDevice, *, is_large: bool = False) -> dict[str, Any]:
    return waits_of(make_model(Case(METHOD, "sgd", 3, "fp32", spread), device), late, is_large=is_large)


def run_inner(device: torch.device, late: LateDevice) -> dict[str, Any]:
    module: Any = make_module()
    knowing = [
        part for part in module.modules() if part is not module and hasattr(part, "enable_gradient_checkpointing")
    ]
    module.enable_gradient_checkpointing = lambda: [part.enable_gradient_checkpointing() for part in knowing]
    engine = EngineConfig(zero_stage=3, activation_checkpointing="inner")
    model = ShardedModel(module, engine, OPTIMIZERS["sgd"], device, max_train_steps=10)
    assert model._recomputing._parts
    return waits_of(model, late)


def waits_of(model: ShardedModel, late: LateDevice, *, is_large: bool = False) -> dict[str, Any]:
    """What the host waits for in two steps after the first one, and what goes on before what it needs is there."""
    zero: Any = model._zero
    main, gathers, reduces = late.default_stream(), zero._gather_stream, zero._optimizer.reduce_and_partition_stream
    if is_large:
        # beyond 1e9 elements weights go after a forward pass, and some are fetched ahead for a backward pass to come
        coordinator = zero._optimizer.parameter_offload.get_param_coordinator()
        coordinator._PartitionedParameterCoordinator__max_reuse_dist_in_numel = 0
        coordinator._PartitionedParameterCoordinator__prefetch_bucket_sz = 1
    is_in_order = {
        "forward": lambda: True,
        "backward": lambda: main.follows(reduces),
        "take_gradient": lambda: main.follows(reduces),
        "before_write": lambda: main.follows(gathers),
        "publish": lambda: zero.world_size == 1 or gathers.follows(main),
    }
    calls, early = dict.fromkeys(is_in_order, 0), []

    def noted(name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "publish":
                late.tell()  # the working copy has been written
            with Reads(late.waits):
                done = do(*args, **kwargs)
            calls[name] += 1
            early.extend([name] * (not is_in_order[name]()))
            return done

        return call

    for name in is_in_order:
        setattr(zero, name, noted(name, getattr(zero, name)))
    method = made(model, METHODS[METHOD], AskingObjective(METHODS[METHOD]))
    for step in range(3):
        if step == 1:
            # DeepSpeed has compared on all ranks in what order modules come
            late.waits.clear()
            late.younger.clear()
        done = update(model, method, step)
        model.step(done.delta, step, done.skip)
    return {
        "waits": dict(+late.waits),
        "younger": sorted(set(late.younger)),
        "streams": len({stream.queue for stream in (main, gathers, reduces)}),
        "calls": calls,
        "early": early,
    }


def main() -> None:
    device = collectives.set_up(EngineConfig(device="cpu", num_threads=1))
    late = set_late_device()
    found = {spread: run(spread, device, late) for spread in SPREADS}
    found["large"] = run("nothing-persistent-overlap", device, late, is_large=True)
    if collectives.world_size() == 1:
        found["inner"] = run_inner(device, late)
    if collectives.is_main():
        Path(sys.argv[1]).write_text(json.dumps(found))
    collectives.end_process(0)


if __name__ == "__main__":
    main()
