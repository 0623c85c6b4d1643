"""What every kernel takes: flat partitions, and a table that says which parameter each piece of one belongs to."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .tiles import ALIGNMENT, CHUNK

PARTITION_DTYPES = (torch.float32, torch.bfloat16)


class Chunks(NamedTuple):
    """A table cut into pieces of at most CHUNK elements, in the order of the parameters, on one device."""

    bounds: Tensor
    """int64 [C, 3]: (first element, one past the last, parameter)"""
    rows: Tensor
    """int64 [P + 1]: parameter p has chunks rows[p] to rows[p + 1]"""


class CpuRows(NamedTuple):
    """A partition in rows of as many elements each, as the CPU sums it up."""

    parameters: Tensor
    """int32 [R]: whose all elements of a row are; P where they are not one parameter's"""
    rest: Tensor
    """int64 [E, row]: the elements that parameters have in rows not wholly theirs, a row for each such piece"""
    is_rest: Tensor
    """bool [E, row]: which entries of `rest` count"""
    rest_parameters: Tensor
    """int32 [E]"""


@dataclass(frozen=True, eq=False)
class ParameterTable:
    """Which parameter each piece of a rank's flat partition belongs to.

    segments: int64 [S, 3] on the CPU, rows of (parameter, offset in the partition, length), all counted in elements.
        Rows are disjoint; a parameter may have any number of rows, none included (it then lives on other ranks).
        What no row covers is padding.
    num_parameters: P, the same on all ranks, so that [P, ...] results of all ranks can be added up.

    Build it once and keep it: what kernels need on the device is made at the first use and kept with the table.

    Raises ValueError for rows that overlap, have a negative entry, or name a parameter >= num_parameters.
    """

    segments: Tensor
    num_parameters: int
    _chunks: dict[torch.device, Chunks] = field(default_factory=dict, init=False, repr=False)
    _cpu_rows: dict[int, CpuRows] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        segments = self.segments
        if segments.dtype != torch.int64 or segments.ndim != 2 or segments.shape[1] != 3 or segments.is_cuda:
            raise ValueError(
                f"segments: expected an int64 [S, 3] tensor on the CPU, found {segments.dtype} "
                f"{list(segments.shape)} on {segments.device}"
            )
        if len(segments) == 0:
            return
        if int(segments.min()) < 0 or int(segments[:, 0].max()) >= self.num_parameters:
            raise ValueError(f"segments: entries must be >= 0 and parameters < num_parameters ({self.num_parameters})")
        by_offset = segments[segments[:, 1].argsort(stable=True)]
        by_offset = by_offset[by_offset[:, 2] > 0]
        ends = by_offset[:, 1] + by_offset[:, 2]
        overlap = (ends[:-1] > by_offset[1:, 1]).nonzero()
        if len(overlap):
            row = int(overlap[0])
            raise ValueError(f"segments: {by_offset[row].tolist()} and {by_offset[row + 1].tolist()} overlap")

    @classmethod
    def from_rows(cls, rows: Any, num_parameters: int) -> "ParameterTable":
        """The table for rows of (parameter, offset, length): a sequence, an array or a tensor, [S, 3]."""
        segments = torch.from_numpy(np.asarray(rows, dtype=np.int64).reshape(-1, 3).copy())
        return cls(segments, num_parameters)

    @property
    def end(self) -> int:
        """One past the last element that any row covers."""
        return int((self.segments[:, 1] + self.segments[:, 2]).max()) if len(self.segments) else 0

    def chunks(self, device: torch.device) -> Chunks:
        """The chunks on `device`, made at the first call."""
        if device not in self._chunks:
            bounds, rows = _cut(self.segments.numpy(), self.num_parameters)
            # from pageable memory the copy has left the host when this returns: nothing to wait for
            self._chunks[device] = Chunks(
                torch.from_numpy(bounds).to(device, non_blocking=True),
                torch.from_numpy(rows).to(device, non_blocking=True),
            )
        return self._chunks[device]

    def cpu_rows(self, row: int) -> CpuRows:
        """Rows of `row` elements, made at the first call."""
        if row not in self._cpu_rows:
            self._cpu_rows[row] = _rows(self.segments.numpy(), self.num_parameters, row)
        return self._cpu_rows[row]

    @cached_property
    def has_elements(self) -> Tensor:
        """bool [P]: of which parameters there is a piece here."""
        found = torch.zeros(self.num_parameters, dtype=torch.bool)
        found[self.segments[self.segments[:, 2] > 0, 0]] = True
        return found


def _rows(segments: np.ndarray, num_parameters: int, row: int) -> CpuRows:
    segments = segments[segments[:, 2] > 0]
    parameter, start, length = segments.T
    end = start + length
    # the rows wholly inside a segment
    first, last = -(-start // row), end // row
    owners = np.full(int((end // row).max(initial=0)), num_parameters, dtype=np.int32)
    for number, low, high in zip(parameter.tolist(), first.tolist(), last.tolist(), strict=True):
        owners[low:high] = number
    # what is left of it before them and after them
    before_end = np.minimum(first * row, end)
    after_start = np.maximum(last * row, before_end)
    low, high = np.concatenate([start, after_start]), np.concatenate([before_end, end])
    kept = low < high
    low, high, whose = low[kept], high[kept], np.concatenate([parameter, parameter])[kept]
    places = low[:, None] + np.arange(row)
    is_rest = places < high[:, None]
    return CpuRows(
        torch.from_numpy(owners),
        torch.from_numpy(np.where(is_rest, places, 0)),
        torch.from_numpy(is_rest),
        torch.from_numpy(whose.astype(np.int32)),
    )


def _cut(segments: np.ndarray, num_parameters: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut each row where the index, counted from the last multiple of ALIGNMENT, passes a multiple of CHUNK."""
    segments = segments[np.argsort(segments[:, 0], kind="stable")]
    parameter, offset, length = segments.T
    origin = offset // ALIGNMENT * ALIGNMENT
    count = np.where(length > 0, -(-(offset + length - origin) // CHUNK), 0)
    row = np.repeat(np.arange(len(segments)), count)
    # 0, 1, 2, … within each row
    index = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    start = np.maximum(offset[row], origin[row] + index * CHUNK)
    end = np.minimum(offset[row] + length[row], origin[row] + (index + 1) * CHUNK)
    rows = np.searchsorted(parameter[row], np.arange(num_parameters + 1))
    return np.stack([start, end, parameter[row]], axis=1).astype(np.int64), rows.astype(np.int64)


def check_partitions(**partitions: Tensor | None) -> None:
    """Raise ValueError unless all given partitions are flat, contiguous, fp32 or bf16, of one length, on one device."""
    given = {name: partition for name, partition in partitions.items() if partition is not None}
    first_name, first = next(iter(given.items()))
    for name, partition in given.items():
        if partition.ndim != 1 or not partition.is_contiguous():
            raise ValueError(f"{name}: expected a flat contiguous partition, found shape {list(partition.shape)}")
        if partition.dtype not in PARTITION_DTYPES:
            raise ValueError(f"{name}: expected float32 or bfloat16, found {partition.dtype}")
        if partition.numel() != first.numel() or partition.device != first.device:
            raise ValueError(
                f"{name}: {partition.numel()} elements on {partition.device}, "
                f"but {first_name} has {first.numel()} on {first.device}"
            )


def check_table(table: ParameterTable, partition: Tensor) -> None:
    """Raise ValueError unless the table stays within the partition."""
    if table.end > partition.numel():
        raise ValueError(f"table: reaches element {table.end}, the partitions have {partition.numel()}")


def as_dtype(piece: Tensor, scratch: Tensor) -> Tensor:
    """The piece in the scratch's dtype: itself where it has it, else a copy at the scratch's start."""
    return piece if piece.dtype == scratch.dtype else scratch[: piece.numel()].copy_(piece)
