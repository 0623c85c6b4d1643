"""ZeRO stages 1 and 2: optimizer state and gradients in partitions, the weights whole on every rank.

The trained parameters, in the module's order, are cut into buckets, and each bucket evenly over the ranks. A loss pays
one reduce-scatter a bucket, however many micro-batches it has, and a publication one all-gather a bucket: 3ψ elements
on the wire for two gradients and a publication. A bucket is sent as soon as the last backward pass has its gradients,
while that goes on with the layers before it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _unflatten_dense_tensors

from ..config import EngineConfig
from .partition import Autocast, Partition, Piece, trained_parameters
from .vector import Layout, Segment

# so that a rank's slice starts at a multiple of 16 bytes in bf16 and in fp32: vector loads, and NCCL's fast path
ALIGNMENT = 8
# reductions under way at once beside the backward pass: what they read stays in memory until they end
MAX_IN_FLIGHT = 2


@dataclass(frozen=True)
class _Bucket:
    """Parameters that are reduced and published together: `numel` elements from `start` of the flat weights, padded."""

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    start: int
    numel: int

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.numel)

    @property
    def num_used(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters)

    def views(self, flat: Tensor) -> tuple[Tensor, ...]:
        """`flat` [numel] as tensors of the parameters' shapes."""
        return _unflatten_dense_tensors(flat, self.parameters)


def cut(numels: Sequence[int], max_numel: int) -> list[list[int]]:
    """Parameters of so many elements in buckets of at most `max_numel`, by their numbers; a larger one has its own."""
    groups: list[list[int]] = []
    size = 0
    for number, numel in enumerate(numels):
        if not groups or size + numel > max_numel:
            groups.append([])
            size = 0
        groups[-1].append(number)
        size += numel
    return groups


def padded(numel: int, world_size: int) -> int:
    """Elements of a bucket whose parameters have so many."""
    unit = ALIGNMENT * world_size
    return -(-numel // unit) * unit


def _buckets(trained: dict[str, nn.Parameter], max_numel: int, world_size: int) -> list[_Bucket]:
    names, parameters = list(trained), list(trained.values())
    numels = [parameter.numel() for parameter in parameters]
    buckets, start = [], 0
    for group in cut(numels, max_numel):
        numel = padded(sum(numels[i] for i in group), world_size)
        buckets.append(_Bucket(tuple(names[i] for i in group), tuple(parameters[i] for i in group), start, numel))
        start += numel
    return buckets


class BucketPartition(Partition):
    def __init__(self, module: nn.Module, config: EngineConfig, device: torch.device):
        super().__init__(Autocast(module, config.precision, device))
        trained = trained_parameters(module)
        self._shapes = {name: tuple(parameter.shape) for name, parameter in trained.items()}
        self._buckets = _buckets(trained, config.reduce_bucket_size, self.world_size)
        self._overlaps = config.overlap_communication
        self._wire_dtype = torch.bfloat16 if config.reduce_dtype == "bf16" else torch.float32
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        numel = self._buckets[-1].place.stop
        self._weights = torch.empty(numel, dtype=dtype, device=device)
        self.theta = torch.empty(numel // self.world_size, device=device)
        self.layout = self.layout_of(self.rank)
        self.pieces = [Piece(self._partition_place(bucket), self._slice(bucket)) for bucket in self._buckets]
        self._take_over(module, dtype, device)

        self._gradient: Tensor | None = None  # this rank's partition, being made
        self._sums: dict[int, Tensor] = {}  # by bucket, of this rank's micro-batches so far, fp32 [numel]
        self._num_awaited: list[int] = []  # by bucket, parameters without a gradient in this backward pass
        self._is_last = False
        self._next = 0  # the bucket to be reduced next: the same order on every rank, that of a backward pass
        self._in_flight: deque[Callable[[], None]] = deque()
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._hook(number))

    def _partition_place(self, bucket: _Bucket) -> slice:
        """Where a bucket's share lies in a partition, the same on every rank."""
        return slice(bucket.place.start // self.world_size, bucket.place.stop // self.world_size)

    def _slice(self, bucket: _Bucket) -> Tensor:
        """This rank's share of a bucket's weights."""
        return self._weights[bucket.place].chunk(self.world_size)[self.rank]

    @torch.no_grad()
    def _take_over(self, module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        """θ, and the weights as views of the working copy; a bucket at a time, so that no copy of all is made."""
        for bucket, piece in zip(self._buckets, self.pieces, strict=True):
            flat = torch.zeros(bucket.numel, device=device)
            torch._foreach_copy_(bucket.views(flat), [parameter.data for parameter in bucket.parameters])
            if self.world_size > 1:
                dist.broadcast(flat, src=0)
            self.theta[piece.place] = flat.chunk(self.world_size)[self.rank]
            self._weights[bucket.place] = flat
            views = bucket.views(self._weights[bucket.place])
            for parameter, view in zip(bucket.parameters, views, strict=True):
                parameter.data = view
        for part in module.modules():
            for name, value in part.named_buffers(recurse=False):
                setattr(part, name, value.to(device, dtype if value.is_floating_point() else None))

    def layout_of(self, rank: int) -> Layout:
        segments = []
        for bucket in self._buckets:
            share = bucket.numel // self.world_size
            start, end, offset = rank * share, (rank + 1) * share, 0
            for name, parameter in zip(bucket.names, bucket.parameters, strict=True):
                low, high = max(offset, start), min(offset + parameter.numel(), end)
                if low < high:
                    place = self._partition_place(bucket).start + low - start
                    segments.append(Segment(name, low - offset, high - low, place))
                offset += parameter.numel()
        return Layout(tuple(segments), self._buckets[-1].place.stop // self.world_size, self._shapes)

    def close(self) -> None:
        self._sums.clear()
        self._in_flight.clear()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._module(*args, **kwargs)

    def backward(self, share: Tensor, *, is_first: bool, is_last: bool) -> None:
        if is_first:
            self._start()
        self._is_last, self._next = is_last, len(self._buckets) - 1
        self._num_awaited = [len(bucket.parameters) for bucket in self._buckets]
        share.backward()
        for number, num_awaited in enumerate(self._num_awaited):
            if num_awaited > 0:  # this loss does not use all of its parameters
                self._add(number)
        self._reduce_ready()

    def _start(self) -> None:
        self._gradient = torch.empty_like(self.theta)
        # what a pass has left that failed
        self._sums.clear()
        self._in_flight.clear()
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.grad = None

    def _hook(self, number: int) -> Callable[[Tensor], None]:
        # torch keeps hooks where no collector sees them: one that held the partition would keep it and all weights
        partition = weakref.ref(self)

        def has_gradient(_: Tensor) -> None:
            if there := partition():
                there._has_gradient(number)

        return has_gradient

    def _has_gradient(self, number: int) -> None:
        self._num_awaited[number] -= 1
        if self._num_awaited[number] == 0:
            self._add(number)
            self._reduce_ready()

    @torch.no_grad()
    def _add(self, number: int) -> None:
        """Adds a bucket's gradients of this backward pass to those of the ones before it."""
        bucket = self._buckets[number]
        self._num_awaited[number] = 0
        is_first = number not in self._sums
        if is_first:
            self._sums[number] = self._new_sum(bucket)
            self._sums[number][bucket.num_used :] = 0
        views = bucket.views(self._sums[number])
        gradients: list[Tensor] = []
        into: list[Tensor] = []
        for parameter, view in zip(bucket.parameters, views, strict=True):
            if parameter.grad is not None:
                gradients.append(parameter.grad)
                into.append(view)
                parameter.grad = None
            elif is_first:
                view.zero_()
        if into and is_first:
            torch._foreach_copy_(into, gradients)
        elif into:
            torch._foreach_add_(into, gradients)

    def _new_sum(self, bucket: _Bucket) -> Tensor:
        assert self._gradient is not None
        if self.world_size == 1:
            return self._gradient[bucket.place]
        return torch.empty(bucket.numel, device=self.theta.device)

    def _reduce_ready(self) -> None:
        """Reduces the buckets whose sums are complete, up to the first that is not."""
        while self._is_last and self._next >= 0 and self._num_awaited[self._next] == 0:
            self._reduce(self._next)
            self._next -= 1

    @torch.no_grad()
    def _reduce(self, number: int) -> None:
        local = self._sums.pop(number)
        if self.world_size == 1:
            return
        assert self._gradient is not None
        share = self._gradient[self._partition_place(self._buckets[number])]
        sent = local.to(self._wire_dtype)
        received = share if sent.dtype == share.dtype else torch.empty_like(share, dtype=sent.dtype)
        work: Any = dist.reduce_scatter_tensor(received, sent, async_op=True)

        def end() -> None:
            nonlocal sent
            work.wait()
            del sent
            if received is not share:
                share.copy_(received)

        self._in_flight.append(end)
        while len(self._in_flight) > (MAX_IN_FLIGHT if self._overlaps else 0):
            self._in_flight.popleft()()

    def take_gradient(self) -> Tensor:
        assert self._gradient is not None and not self._sums, "the last backward pass comes first"
        while self._in_flight:
            self._in_flight.popleft()()
        taken, self._gradient = self._gradient, None
        return taken

    def before_write(self) -> None:
        pass

    def publish(self) -> None:
        if self.world_size == 1:
            return
        works: list[Any] = [
            dist.all_gather_into_tensor(self._weights[bucket.place], piece.weights, async_op=True)
            for bucket, piece in zip(self._buckets, self.pieces, strict=True)
        ]
        for work in works:
            work.wait()
