"""What is made on one CUDA stream and read on another: batches, which threads make while the step computes.

And how they get there without the host waiting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

Made = TypeVar("Made")


def to_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Of the host's values, on the current stream; the host goes on."""
    held = torch.as_tensor(values)
    # a copy from pageable memory would wait until the device has done what it was given before
    held = held.pin_memory() if device.type == "cuda" else held
    return held.to(device, non_blocking=True)


class Staged(Generic[Made]):
    """What the current stream has been told to make, and when it is there."""

    def __init__(self, made: Made, device: torch.device):
        current: Any = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._made = made
        self._ready = None if current is None else current.record_event()

    def take(self) -> Made:
        """For the current stream, which waits for it; the host does not."""
        if self._ready is not None:
            current: Any = torch.cuda.current_stream()
            current.wait_event(self._ready)
            for tensor in tensors_in(self._made):
                # its memory is the other stream's: not to be given away before this one has read it
                tensor.record_stream(current)
        return self._made


class SideStream:
    """On a CPU there is none, and everything is made where it is asked for."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            # frozen parts, which encode, were brought there on the current one
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def make(self, make: Callable[[], Made]) -> Staged[Made]:
        """Any thread calls it."""
        with torch.cuda.stream(self._stream):
            return Staged(make(), self._device)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """In dataclasses, mappings and sequences, at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
