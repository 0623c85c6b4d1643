"""Steps of a method on the tiny model, by the engine: what every process that compares it with a reference runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from engine_cases import (
    METHODS,
    OPTIMIZERS,
    SPREADS,
    Case,
    ToyBatch,
    at_level,
    fresh_weights,
    global_batch,
    make_module,
    micro_batches,
    mixtures,
    own_target,
    per_sample_loss,
)
from erasediff.trainer.config import EngineConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.methods import Update
from erasediff.trainer.objectives.objective import Batches
from erasediff.trainer.ranks import collectives
from wire import Wire


class ToyObjective:
    """`Losses` of its own: the methods see no difference to a diffusion model's."""

    def with_own_targets(self, batches: list[ToyBatch]) -> list[ToyBatch]:
        return [own_target(batch) for batch in batches]

    def with_forget_targets(self, model: ShardedModel, batches: list[ToyBatch]) -> list[ToyBatch]:
        return batches

    @torch.no_grad()
    def with_predictions(self, model: ShardedModel, batches: list[ToyBatch]) -> list[ToyBatch]:
        return [
            dataclasses.replace(one, target=model.predict(one.x, one.t, one.labels, one.uses_all)) for one in batches
        ]

    def one_by_one(self, batches: list[ToyBatch], num_levels: int) -> Iterator[list[ToyBatch]]:
        for batch in batches:
            for i, weight in enumerate(batch.weights.tolist()):
                yield [at_level(batch.rows([i], [weight]), level) for level in range(num_levels)]

    def mixtures(
        self, remain: list[ToyBatch], forget: list[ToyBatch], forget_chance: float
    ) -> tuple[list[ToyBatch], list[ToyBatch]]:
        pairs = [mixtures(*pair, forget_chance) for pair in zip(remain, forget, strict=True)]
        return [one for one, _ in pairs], [other for _, other in pairs]

    def loss(self, model: ShardedModel, batch: ToyBatch) -> torch.Tensor:
        return per_sample_loss(model.predict, batch, model.working_dtype)


class AskingObjective(ToyObjective):
    """Takes the passes that a method's target takes, and learns nothing from them."""

    def __init__(self, config: Any):
        self._config = config

    def with_forget_targets(self, model: ShardedModel, batches: list[ToyBatch]) -> list[ToyBatch]:
        with model.at_original() if self._config.asks_original else nullcontext(), torch.no_grad():
            for batch in batches * self._config.target_kind().num_forwards:
                self.loss(model, batch)
        return batches


def make_model(case: Case, device: torch.device) -> ShardedModel:
    spread = SPREADS.get(case.spread, {})
    engine = EngineConfig(zero_stage=case.zero_stage, precision=case.precision, **spread)  # pyright: ignore
    keep_original = case.method in METHODS and METHODS[case.method].keeps_original
    optimizer = OPTIMIZERS[case.optimizer]
    return ShardedModel(
        make_module(),
        engine,
        optimizer,
        device,
        max_train_steps=10,
        keep_original=keep_original,
        fresh=fresh_weights,
    )


def own_batches(iteration: int, uses_all: bool) -> list[ToyBatch]:
    """This rank's."""
    return micro_batches(global_batch(iteration, uses_all), collectives.rank(), collectives.world_size())


def made(model: ShardedModel, config: Any, objective: Any = None) -> Any:
    """The method, prepared."""
    method = config.make(objective or ToyObjective())
    method.prepare(model, lambda number: Batches(own_batches(number, True), own_batches(number, False), ()))
    return method


def update(model: ShardedModel, method: Any, iteration: int) -> Update:
    remain: Any = own_batches(iteration, True)
    forget: Any = own_batches(iteration, False)
    return method.step(model, forget, remain, iteration, diagnose=True)


def traffic(case: Case, device: torch.device) -> dict[str, float]:
    """What the second step and the next forward pass's weights send, in bytes over those of θ in the working dtype.

    Sums of a few numbers are left out of it, and counted.
    """
    model = make_model(case, device)
    config = METHODS[case.method]
    method = made(model, config, AskingObjective(config))

    def step(iteration: int) -> None:
        done = update(model, method, iteration)
        model.step(done.delta, iteration, done.skip)

    step(0)
    wire = Wire()
    with wire:
        step(1)
    numel = sum(math.prod(shape) for shape in model.theta.layout.shapes.values())
    width = torch.empty(0, dtype=model.working_dtype).element_size()
    return {name: num_bytes / numel / width for name, num_bytes in wire.num_bytes.items()} | {
        "sums": wire.num_calls["allreduce_"]
    }
