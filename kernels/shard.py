"""What every kernel takes: flat shards, and a table that says which parameter each piece of a shard belongs to."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SHARD_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class ParameterTable:
    """Which parameter each piece of a rank's flat shard belongs to.

    segments: int64 [S, 3] on the CPU, rows of (parameter, offset in the shard, length), all counted in elements.
        Rows are disjoint; a parameter may have any number of rows, none included (it then lives on other ranks).
        What no row covers is padding.
    num_parameters: P, the same on all ranks, so that [P, ...] results of all ranks can be added up.

    Raises ValueError for rows that overlap, have a negative entry, or name a parameter >= num_parameters.
    """

    segments: Tensor
    num_parameters: int

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
        by_offset = segments[segments[:, 1].argsort()]
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


def check_shards(**shards: Tensor | None) -> None:
    """Raise ValueError unless all given shards are flat, contiguous, fp32 or bf16, of one length, on one device."""
    first_name, first = next((name, shard) for name, shard in shards.items() if shard is not None)
    for name, shard in shards.items():
        if shard is None:
            continue
        if shard.ndim != 1 or not shard.is_contiguous():
            raise ValueError(f"{name}: expected a flat contiguous shard, found shape {list(shard.shape)}")
        if shard.dtype not in SHARD_DTYPES:
            raise ValueError(f"{name}: expected float32 or bfloat16, found {shard.dtype}")
        if shard.numel() != first.numel() or shard.device != first.device:
            raise ValueError(
                f"{name}: {shard.numel()} elements on {shard.device}, "
                f"but {first_name} has {first.numel()} on {first.device}"
            )
