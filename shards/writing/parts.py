"""One shard's share of a dataset, kept on disk while the dataset is being made, so that a killed run can continue."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..format.manifest import Shard
from .staging import sync

_FOLDER = "parts"  # within the one that is being made: shards are called as a user likes


@dataclass(frozen=True)
class Part:
    """A finished shard and the index of its samples."""

    shard: Shard
    shapes: frozenset[tuple[int, ...]]
    """[H, W, C] of its images."""
    index: np.ndarray


@dataclass(frozen=True)
class SavedPart:
    """A part on disk; thousands are held at once, so its index is neither in memory nor mapped (an open file each)."""

    shard: Shard
    shapes: frozenset[tuple[int, ...]]
    rows: Path
    """Its index."""


def resumed(folder: Path, number: int, make: Callable[[], Part]) -> SavedPart:
    """The part of this number that an earlier, killed run left in `folder`, or else a new one from `make`."""
    record = folder / _FOLDER / f"{number:06d}.json"
    rows = record.with_suffix(".npy")
    if not record.exists():
        record.parent.mkdir(exist_ok=True)
        part = make()
        np.save(rows, part.index, allow_pickle=False)
        sync(rows)
        # the record comes last and in one piece: with it, the part counts as done
        written = record.with_suffix(".tmp")
        written.write_text(json.dumps({"shard": asdict(part.shard), "shapes": sorted(part.shapes)}), encoding="utf-8")
        sync(written)
        written.rename(record)
    saved = json.loads(record.read_text(encoding="utf-8"))
    return SavedPart(Shard(**saved["shard"]), frozenset(tuple(shape) for shape in saved["shapes"]), rows)


def remove_parts(folder: Path) -> None:
    """Call when the dataset is complete."""
    parts = folder / _FOLDER
    # records first: a kill in between must not leave a record without its rows
    for pattern in ("*.json", "*"):
        for file in parts.glob(pattern):
            file.unlink()
    parts.rmdir()
