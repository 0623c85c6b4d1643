"""Dropout in the passes of a gradient, as seeded draws: the same step on the same ranks drops the same.

Every loss of a step has the same masks, at θ as at φ; passes without a gradient have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..randomness import sample_generator


class Dropout:
    """A module's dropout layers, switched off but where it is asked for."""

    def __init__(self, module: nn.Module, seed: int | None, device: torch.device, rank: int):
        """seed: of the masks; None: no dropout, whatever the module was made with."""
        self._seed = seed
        self._device = device
        self._rank = rank
        self._parts = [part for part in module.modules() if isinstance(part, nn.Dropout) and part.p > 0]
        self._set(False)
        self.step = 0

    @property
    def drops(self) -> bool:
        """Whether there is anything to drop."""
        return self._seed is not None and bool(self._parts)

    @contextmanager
    def of_micro_batch(self, number: int) -> Iterator[None]:
        """Inside, passes drop what is a function of (seed, step, number, rank)."""
        if self._seed is None or not self._parts:
            yield
            return
        index = self.step << 32 | number << 16 | self._rank
        seed = int(sample_generator(self._seed, "dropout", index).integers(1 << 63))
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(seed)
            self._set(True)
            try:
                yield
            finally:
                self._set(False)

    def _set(self, on: bool) -> None:
        for part in self._parts:
            part.train(on)
