"""Batches that threads make on a CUDA stream of their own, while the step computes on the current one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


class Staged(Generic[Made]):
    """What was made, and when it is there."""

    def __init__(self, made: Made, ready: Any = None):
        self._made = made
        self._ready = ready

    def take(self) -> Made:
        """For the current stream, which waits for it; the host does not."""
        if self._ready is not None:
            current: Any = torch.cuda.current_stream()
            current.wait_event(self._ready)
            for tensor in tensors_in(self._made):
                # its memory is the side stream's: not to be given away before the step has read it
                tensor.record_stream(current)
        return self._made


class SideStream:
    """On a CPU there is none, and everything is made where it is asked for."""

    def __init__(self, device: torch.device):
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            # frozen parts, which encode, were brought there on the current one
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def make(self, make: Callable[[], Made]) -> Staged[Made]:
        """Any thread calls it."""
        if self._stream is None:
            return Staged(make())
        with torch.cuda.stream(self._stream):
            made = make()
            return Staged(made, self._stream.record_event())


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
