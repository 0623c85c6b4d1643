"""One combination of settings at work: the iterations of a scrub, as the training loop takes them, and their times."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch.profiler import record_function

from ...kernels.inner_products import first_non_finite
from ..config import ScrubConfig, TargetedConfig
from ..engine.packet import PendingPacket
from ..engine.sharded_model import ShardedModel
from ..methods import Method
from ..models.conditions import Condition
from ..models.layers import train_only
from ..objectives.objective import objective_of
from ..objectives.targets import LooksAtSamples
from ..ranks.freed_memory import give_back
from ..run.reading import BadSamples, Reader, Streams
from .synthetic import RandomStream, labels_of, random_model

# of a step's reading, in the profiler's events
DATA = "erasediff::data"


class Iteration:
    """All ranks make it and call its methods together."""

    def __init__(self, config: ScrubConfig, device: torch.device):
        """Raises ConfigError where the model cannot be scrubbed so, and what torch raises where memory is short."""
        self._device = device
        self._max_grad_norm = config.optimizer.max_grad_norm
        model = random_model(config.model, device)
        method = without_words(config)
        labels = labels_of(model)
        conditions = cast("tuple[list[Condition], ...]", labels)
        if model.num_classes or not model.frozen_parts:
            method.check_conditions(model, *conditions)
        objective: Any = objective_of(model).Objective(
            model,
            device,
            seed=config.train.seed,
            label_drop=config.train.label_drop or 0.0,
            forget_label_drop=config.train.forget_label_drop,
            method=method,
            others=conditions[1],
            forward_batch_size=config.engine.forward_batch_size,
        )
        self.module = model.module
        train_only(model.module, config.train.layers, "train.layers")
        self.model = ShardedModel(
            model.module,
            config.engine,
            config.optimizer,
            device,
            max_train_steps=config.train.max_train_steps,
            keep_original=method.keeps_original,
            fresh=lambda: model.fresh_weights(config.train.seed),
        )
        self._method: Method = method.make(objective)
        forget, remain = (RandomStream(model, each, config.train.train_batch_size) for each in labels)
        streams: Any = Streams(remain, forget if method.needs_forget else None)  # pyright: ignore[reportArgumentType]
        workers = config.train.dataloader_num_workers
        self._reader = Reader(streams, objective, BadSamples(0), device, start=0, num_workers=workers)
        self._method.prepare(self.model, self._reader.at)
        self._number = 0
        self._pending: PendingPacket | None = None

    def step(self) -> None:
        """One iteration, its host work among it; the step before is looked at, as in training."""
        with record_function(DATA):
            batches = self._reader.next()
        # what is logged on some steps alone is not of an iteration
        update = self._method.step(self.model, batches.forget, batches.remain, self._number, diagnose=False)
        packet = update.packet
        packet.extend(non_finite_parameter=first_non_finite(packet.by_parameter))
        if self._max_grad_norm is not None:
            norm = update.norm_squared().clamp(min=0).sqrt()
            update.delta.mul_((self._max_grad_norm / norm).clamp(max=1.0).float())
        self.model.step(update.delta, self._number, update.skip)
        packet.extend(skipped=update.skip)
        if self._pending is not None:
            self._pending.read()
        self._pending = packet.to_host()
        self._number += 1

    def seconds(self, repeats: int) -> list[float]:
        """Of each of so many iterations that follow each other: from the end of one to the end of the next."""
        if self._device.type != "cuda":
            ends = [time.perf_counter()]
            for _ in range(repeats):
                self.step()
                ends.append(time.perf_counter())
            return [end - begin for begin, end in itertools.pairwise(ends)]
        # the host runs ahead as it does in training
        events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        events[0].record()
        for event in events[1:]:
            self.step()
            event.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in itertools.pairwise(events)]

    def close(self) -> None:
        """Ends it, the module with it."""
        self._reader.close()
        self.model.close()


def without_words(config: ScrubConfig) -> Any:
    """The method, without anchors and concept: samples are told numbers, and what they are told costs the same.

    So does a target of random numbers where the method's would look at samples, of which there are none.
    """
    method = config.method
    if not isinstance(method, TargetedConfig):
        return method
    target = "noise" if issubclass(method.target_kind(), LooksAtSamples) else method.target
    return replace(method, target=target, anchor=None, concept=())


@contextmanager
def working(config: ScrubConfig, device: torch.device) -> Iterator[Iteration]:
    """An `Iteration` whose memory is free again afterwards."""
    iteration = Iteration(config, device)
    try:
        yield iteration
    finally:
        iteration.close()
        del iteration
        give_back(device)
