"""A device that is never done with what it was told, for DeepSpeed on a CPU: notes where the host would wait for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.accelerator import cpu_accelerator, set_accelerator
from torch.utils._python_dispatch import TorchDispatchMode

# whose annotations say that it has no streams
_CPU: Any = cpu_accelerator.CPU_Accelerator


class _Queue:
    """What a stream stands for."""

    def __init__(self) -> None:
        self.num_told = self.num_recorded = 0
        self.awaited: dict[_Queue, int] = {}


class LateDevice(_CPU):
    """Streams and events as on CUDA; what runs on them runs at once."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        """Of the host, by what it waits for."""
        self.younger: list[int] = []
        """For each event that the host waits for: how many its stream has recorded since."""
        self._default = self._current = _Queue()

    def is_synchronized_device(self) -> bool:
        return False

    def use_host_timers(self) -> bool:
        return True

    def synchronize(self, device_index: Any = None) -> None:
        self.waits["device"] += 1

    @property
    def Stream(self) -> Any:
        return lambda: _Stream(self, _Queue())

    @property
    def Event(self) -> Any:
        return lambda: _Event(self, self._current)

    def default_stream(self, device_index: Any = None) -> _Stream:
        return _Stream(self, self._default)

    def current_stream(self, device_index: Any = None) -> _Stream:
        return _Stream(self, self._current)

    @contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        before, self._current = self._current, stream.queue
        self.tell()
        try:
            yield
        finally:
            self._current = before

    def tell(self) -> None:
        """Gives the current stream something to do."""
        self._current.num_told += 1


class _Stream:
    """As on CUDA, each time another object for the same stream."""

    def __init__(self, device: LateDevice, queue: _Queue):
        self._device, self.queue = device, queue

    def wait_stream(self, other: _Stream) -> None:
        self.queue.awaited[other.queue] = other.queue.num_told

    def follows(self, other: _Stream) -> bool:
        """Whether what this one is told now comes after all that the other was told."""
        return self.queue is other.queue or self.queue.awaited.get(other.queue, 0) == other.queue.num_told

    def synchronize(self) -> None:
        self._device.waits["stream"] += 1


class _Event:
    def __init__(self, device: LateDevice, queue: _Queue):
        self._device, self._queue = device, queue

    def record(self) -> None:
        self._queue.num_recorded += 1
        self._number = self._queue.num_recorded

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        self._device.waits["event"] += 1
        self._device.younger.append(self._queue.num_recorded - self._number)


class Reads(TorchDispatchMode):
    """Counts what reads a tensor's number, for which the host waits, too."""

    def __init__(self, waits: Counter[str]):
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._waits["number"] += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def set_late_device() -> LateDevice:
    """From now on DeepSpeed's, for the rest of the process."""
    device = LateDevice()
    set_accelerator(device)
    # there is nothing to tell the allocator of a CPU
    torch.Tensor.record_stream = lambda tensor, stream: None  # pyright: ignore
    return device
