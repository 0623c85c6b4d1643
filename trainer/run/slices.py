"""The files that a checkpoint's vectors lie in: a rank's slices, written and found again."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..engine.vector import Layout, Segment


def file_name(rank: int, world_size: int) -> str:
    return f"rank-{rank:05d}-of-{world_size:05d}.safetensors"


@dataclass(frozen=True)
class RankSlices:
    """A copy of what this rank holds of every vector, on the CPU, and the safetensors file that it becomes."""

    vectors: dict[str, Tensor]
    layout: Layout

    def _slices(self) -> list[tuple[str, Tensor, Segment]]:
        return [(name, data, piece) for name, data in self.vectors.items() for piece in self.layout.segments]

    def _header(self) -> bytes:
        entries, offset = {}, 0
        for vector, data, piece in self._slices():
            end = offset + piece.length * data.element_size()
            entries[f"{vector}/{piece.name}@{piece.parameter_offset}"] = {
                "dtype": "F32",
                "shape": [piece.length],
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return len(self._header()) + sum(piece.length * data.element_size() for _, data, piece in self._slices())

    def write(self, path: Path) -> dict[str, Any]:
        """Writes the file through to the disk; returns its size and hash. Makes no second copy of the data."""
        digest = hashlib.sha256()
        num_bytes = 0
        with path.open("wb") as file:
            header = self._header()
            pieces = (d[p.partition_offset : p.partition_offset + p.length].numpy() for _, d, p in self._slices())
            for chunk in (header, *(piece.data.cast("B") for piece in pieces)):
                file.write(chunk)
                digest.update(chunk)
                num_bytes += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        return {"sha256": digest.hexdigest(), "num_bytes": num_bytes}


class SliceReader:
    """The slices of all ranks' files, found by vector and parameter."""

    def __init__(self, files: list[Path]):
        self._where: dict[tuple[str, str], list[tuple[int, Any, str]]] = {}
        for path in files:
            file = safe_open(path, framework="pt")
            for name in file.keys():  # noqa: SIM118 not a dict
                place, _, offset = name.rpartition("@")
                vector, _, parameter = place.partition("/")
                self._where.setdefault((vector, parameter), []).append((int(offset), file, name))

    def read(self, vector: str, layout: Layout) -> Tensor:
        """This rank's partition of a vector, flat fp32 on the CPU."""
        partition = torch.zeros(layout.partition_numel)
        for piece in layout.segments:
            start, end = piece.parameter_offset, piece.parameter_offset + piece.length
            found = 0
            for offset, file, name in self._where[(vector, piece.name)]:
                stored = file.get_slice(name)
                low, high = max(start, offset), min(end, offset + stored.get_shape()[0])
                if low < high:
                    at = piece.partition_offset + low - start
                    partition[at : at + high - low] = stored[low - offset : high - offset]
                    found += high - low
            assert found == piece.length, f"{vector}/{piece.name} is incomplete"
        return partition
