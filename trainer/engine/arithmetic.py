"""In which arithmetic passes run: the precision's, or exactly that of the weights where a difference is taken.

TF32 is on within a pass alone: what else computes in this process, an evaluation for one, has fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from .partition import Partition


class Arithmetic:
    """Of one engine's forward passes, and of the backward passes within `of_passes`."""

    def __init__(self, zero: Partition, precision: str):
        self._zero = zero
        self._is_tf32 = precision == "tf32"
        self._is_decided = False

    @property
    def rounds(self) -> bool:
        """Whether passes that are not exact run in coarser arithmetic than that of the weights."""
        return self._is_tf32 or self._zero.autocasts

    @contextmanager
    def of_passes(self, *, exact: bool = False) -> Iterator[None]:
        """Around passes; the outermost decides."""
        if self._is_decided:
            yield
            return
        self._is_decided = True
        try:
            with self._zero.without_autocast() if exact else nullcontext(), tf32(self._is_tf32 and not exact):
                yield
        finally:
            self._is_decided = False


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Inside, CUDA's products of fp32 numbers keep 10 bits of them, or all; elsewhere it is as it was."""
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = on
    try:
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.allow_tf32 = was
