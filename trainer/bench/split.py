"""What an iteration is made of: from the profiler, in a pass of its own, whose instants belong to one part each.

On CUDA the timeline is the device's, on a CPU that of the thread that takes the steps. Where parts overlap, an instant
is of the first of `PARTS` that is under way, so that of a reduction beside a backward pass only what sticks out counts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..ranks import collectives
from .iteration import DATA

PARTS = ("kernels", "optimizer", "passes", "reduction", "data", "gaps")
NUM_PROFILED = 2

_OUR_KERNELS = ("_chunk_sums", "_add_up", "_combine", "_displace", "_multiplier")
_STEP = "bench::iteration"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Split:
    """Of one iteration, on average; its parts, those of `PARTS`, add up to an iteration under the profiler alone."""

    seconds: dict[str, float]
    reduction_busy_seconds: float
    """Of collectives, whatever else runs beside them."""
    num_bytes: int
    """That this rank sends in collectives: (N - 1) / N of a reduce-scatter's or all-gather's, twice that of an
    all-reduce's, as nccl-tests count for bus bandwidth."""

    @property
    def bus_bandwidth(self) -> float | None:
        """Bytes a second; None where nothing is sent."""
        return self.num_bytes / self.reduction_busy_seconds if self.num_bytes and self.reduction_busy_seconds else None


def take_apart(step: Callable[[], None], device: torch.device, trace: Path | None = None) -> Split:
    """Of a few calls of `step` after each other. All ranks call it; `trace` is written by the one that gives it."""
    with CountedBytes() as counted:
        step()
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.synchronize()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    profiler = profile(activities=activities)
    with _without_stderr():
        profiler.start()
    for _ in range(NUM_PROFILED):
        with torch.profiler.record_function(_STEP):
            step()
    if on_cuda:
        torch.cuda.synchronize()
    with _without_stderr():
        profiler.stop()
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
    events: Any = profiler.events()
    whole, intervals = _intervals(events, on_cuda=on_cuda)
    parts = _share_out(whole, intervals)
    busy = _length(_union(intervals["reduction"]))
    return Split(
        {part: seconds / NUM_PROFILED for part, seconds in parts.items()}, busy / NUM_PROFILED, counted.num_bytes
    )


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Inside, what libraries write to it is lost: torch 2.13's profiler says that it starts and stops."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class CountedBytes(TorchDispatchMode):
    """Bytes that this rank sends in collectives inside, by the convention of `Split.num_bytes`."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self._count(func.overloadpacket.__name__, args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: Any) -> None:
        num_ranks = collectives.world_size()
        # (output, input, group, …), or (tensors, group, …)
        sizes = [sum(one.nbytes for one in tree_leaves(arg) if isinstance(one, Tensor)) for arg in args[:2]]
        if "reduce_scatter" in name or "allgather" in name:
            whole, times = max(sizes), 1
        elif "allreduce" in name:
            whole, times = sizes[0], 2
        elif "broadcast" in name:
            whole, times = sizes[0], 1
        else:
            return
        self.num_bytes += round(times * (num_ranks - 1) / num_ranks * whole)


def _intervals(events: Iterable[Any], *, on_cuda: bool) -> tuple[Interval, dict[str, list[Interval]]]:
    """The profiled time, and what was under way in it by part, in seconds."""
    found: dict[str, list[Interval]] = {part: [] for part in PARTS}
    events = list(events)
    steps = [event for event in events if event.name == _STEP and str(event.device_type).endswith("CPU")]
    thread = steps[0].thread
    for event in events:
        interval = event.time_range.start / 1e6, event.time_range.end / 1e6
        is_on_device = str(event.device_type).endswith("CUDA")
        if event.name == DATA and not is_on_device:
            found["data"].append(interval)
        elif event.name.startswith(("gloo:", "nccl:")) and not on_cuda:
            found["reduction"].append(interval)
        elif is_on_device == on_cuda and (on_cuda or event.thread == thread):
            part = _part_of_kernel(event.name) if on_cuda else _part_of_call(event.name)
            if part is not None:
                found[part].append(interval)
    begin = min(event.time_range.start for event in steps) / 1e6
    end = max(event.time_range.end for event in steps) / 1e6
    if on_cuda:  # the device goes on after the host
        end = max([end, *(interval[1] for part in found.values() for interval in part)])
    return (begin, end), found


def _part_of_kernel(name: str) -> str | None:
    """Of what runs on the device; ranges of ours, which the profiler repeats there, are of none."""
    if name.startswith(("erasediff::", "bench::", "Optimizer.", "ProfilerStep")):
        return None
    if name.startswith("nccl"):
        return "reduction" if "Kernel" in name else None
    if name.startswith(_OUR_KERNELS):
        return "kernels"
    if "FusedAdam" in name or "FusedSgd" in name:
        return "optimizer"
    return "data" if name.startswith("Memcpy HtoD") else "passes"


def _part_of_call(name: str) -> str | None:
    """Of what the host calls."""
    if name.startswith("erasediff::"):
        return "kernels"
    if name.startswith("Optimizer.step"):
        return "optimizer"
    return "passes" if name.startswith("aten::") else None


def _share_out(whole: Interval, intervals: dict[str, list[Interval]]) -> dict[str, float]:
    """Seconds of each part, each instant given to the first of `PARTS`; what none has is "gaps"."""
    taken: list[Interval] = []
    shares: dict[str, float] = {}
    before = 0.0
    for part in PARTS[:-1]:
        taken = _union([*taken, *_clipped(intervals[part], whole)])
        shares[part] = _length(taken) - before
        before = _length(taken)
    return shares | {"gaps": whole[1] - whole[0] - before}


def _clipped(intervals: list[Interval], whole: Interval) -> list[Interval]:
    clipped = [(max(begin, whole[0]), min(end, whole[1])) for begin, end in intervals]
    return [(begin, end) for begin, end in clipped if begin < end]


def _union(intervals: list[Interval]) -> list[Interval]:
    """The same instants, in pieces that do not meet."""
    joined: list[Interval] = []
    for begin, end in sorted(intervals):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined


def _length(intervals: list[Interval]) -> float:
    return sum(end - begin for begin, end in intervals)
