"""A module whose trained weights are partitioned over ranks (ZeRO): what the engine asks of it, at every stage."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .vector import Layout


class Autocast(nn.Module):
    """The module with autocast inside it, for the precision that asks for it."""

    def __init__(self, module: nn.Module, precision: str, device: torch.device):
        super().__init__()
        self.module = module
        self.enabled = precision == "bf16-autocast"
        self._device_type = device.type

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # a caller's own autocast keeps the cache of cast weights, which a write to the working copy would not reach;
        # within one forward pass each weight is cast once, with or without it
        with torch.autocast(self._device_type, dtype=torch.bfloat16, enabled=self.enabled, cache_enabled=False):
            return self.module(*args, **kwargs)


@dataclass(frozen=True)
class Piece:
    """A contiguous piece of this rank's partition, and the working copy's weights that it is written to."""

    place: slice
    weights: Tensor


class Partition(ABC):
    """A module under ZeRO: `theta` is this rank's fp32 partition of the weights, in `layout`; padding is zero.

    The weights that forward passes read are a working copy. All ranks make it and call its methods together.
    """

    theta: Tensor  # flat fp32 [layout.partition_numel], never an alias of the working copy
    layout: Layout
    pieces: Sequence[Piece]  # together this rank's partition of the working copy, in the working dtype

    def __init__(self, module: Autocast):
        self._module = module
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    @property
    def working_dtype(self) -> torch.dtype:
        return self.pieces[0].weights.dtype

    @property
    def autocasts(self) -> bool:
        """Whether forward passes run in bf16 arithmetic on fp32 weights."""
        return self._module.enabled

    @contextlib.contextmanager
    def without_autocast(self) -> Iterator[None]:
        """Inside, forward passes, and the backward passes of those, run in the weights' own precision."""
        enabled, self._module.enabled = self._module.enabled, False
        try:
            yield
        finally:
            self._module.enabled = enabled

    @abstractmethod
    def close(self) -> None:
        """Lets go of its memory, as far as it does not go with the last reference; it is not used again."""

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """A forward pass with the working copy."""

    @abstractmethod
    def backward(self, share: Tensor, *, is_first: bool, is_last: bool) -> None:
        """The backward pass of the one forward pass since the last call: adds to the gradient that is being taken.

        share: this rank's part of a loss that is a sum over ranks. is_first: nothing is there to be added to, also
        where an earlier gradient was never taken. is_last: no more is added.
        """

    @abstractmethod
    def take_gradient(self) -> Tensor:
        """The sum over ranks of the gradients since the last call, flat fp32 in `layout`; nothing of it is kept."""

    @abstractmethod
    def before_write(self) -> None:
        """Must precede a write to the weights of `pieces`."""

    @abstractmethod
    def publish(self) -> None:
        """Makes what `pieces` hold on every rank the weights of the next forward pass."""

    @abstractmethod
    def layout_of(self, rank: int) -> Layout:
        """The layout of another rank's partition."""


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """In the module's order."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
