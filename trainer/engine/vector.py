"""One rank's partition of a vector over all trained parameters, and where each piece of it belongs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.combine import combine_
from ...kernels.table import ParameterTable
from ..ranks import collectives


@dataclass(frozen=True)
class Segment:
    """`length` elements of parameter `name`, from `parameter_offset` of it flattened, at `partition_offset` here."""

    name: str
    parameter_offset: int
    length: int
    partition_offset: int


@dataclass(frozen=True)
class Layout:
    """The canonical layout of a rank's partition: that of θ.

    Elements outside every segment are padding and hold zero in every vector.
    """

    segments: tuple[Segment, ...]
    partition_numel: int
    shapes: dict[str, tuple[int, ...]]  # of all trained parameters, on every rank, in model order

    def parameter_table(self) -> ParameterTable:
        """The same for the kernels, parameters numbered in the order of `shapes`."""
        number = {name: i for i, name in enumerate(self.shapes)}
        rows = [(number[s.name], s.partition_offset, s.length) for s in self.segments]
        return ParameterTable.from_rows(rows, len(number))


class ShardedVector:
    """A vector over all trained parameters; this rank holds `data`, flat fp32 [layout.partition_numel].

    Elementwise operations need no other rank; sums over the whole vector go through `inner_products` and the packet.
    """

    def __init__(self, layout: Layout, data: Tensor):
        assert data.shape == (layout.partition_numel,), (data.shape, layout.partition_numel)
        self.layout = layout
        self.data = data

    def clone(self) -> ShardedVector:
        return ShardedVector(self.layout, self.data.clone())

    def axpy_(self, alpha: float, x: ShardedVector) -> ShardedVector:
        """self += alpha · x."""
        self.data.add_(x.data, alpha=alpha)
        return self

    def mul_(self, factor: float | Tensor) -> ShardedVector:
        """self *= factor, a number or a 0-dim tensor on the vector's device."""
        self.data.mul_(factor)
        return self

    def lerp_(self, end: ShardedVector, weight: float | Tensor) -> ShardedVector:
        """self += weight · (end - self), weight a number or a 0-dim tensor on the vector's device."""
        self.data.lerp_(end.data, weight)
        return self

    def abs_quantile(self, share: float) -> Tensor:
        """The smallest t, 0-dim fp32, such that `share` of all elements or more have a magnitude of at most t.

        Exact over all ranks, which call it together: a bisection over the bits of the numbers, whose order theirs is.
        """
        bits = self.data.abs().view(torch.int32)
        num_above = int((1 - share) * sum(math.prod(shape) for shape in self.layout.shapes.values()) + 1e-6)
        low, high = bits.new_full((), -1, dtype=torch.int64), bits.new_full((), 0x7F7FFFFF, dtype=torch.int64)
        for _ in range(32):
            middle = (low + high).div(2, rounding_mode="floor")
            fits = collectives.sum_((bits > middle).sum()) <= num_above
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        return high.clamp(min=0).to(torch.int32).view(torch.float32)

    def add_scaled_(self, factor: Tensor, x: ShardedVector, minus: ShardedVector | None = None) -> ShardedVector:
        """self += factor · (x [- minus]), factor 0-dim fp64 on the vector's device, in one pass over memory."""
        combine_(self.data, factor, x.data, None if minus is None else minus.data)
        return self
