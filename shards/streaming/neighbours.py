"""The nearest samples of one dataset to each of another's: exact, in blocks, kept in a file."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import numpy as np

from ..errors import DataError
from .rows import Rows

# of samples at a time, as float64: neither set need fit into memory
_BLOCK_BYTES = 64 << 20
_MAX_BLOCK = 2048


def nearest_rows(
    asked_rows: np.ndarray, asked: Rows, others: Rows, count: int, asked_groups: np.ndarray, other_groups: np.ndarray
) -> np.ndarray:
    """int64 [len(asked_rows), count]: rows of `others`, the nearest first, of equally near ones that of the lower row.

    Near by the Euclidean distance of pixels as they are read, or of the latents' means; exact for pixels, whose squared
    distances are whole numbers that float64 holds. A sample's neighbours are those of its own group where that has
    `count` or more, and any otherwise. groups: int64, one a sample of each dataset; count: at most the others' number.
    """
    found = np.empty((len(asked_rows), count), dtype=np.int64)
    sizes = np.bincount(other_groups, minlength=1 + max(asked_groups.max(), other_groups.max()))
    for block in _blocks(asked, asked_rows):
        points, groups = _points(asked, asked_rows[block]), asked_groups[asked_rows[block]]
        keeps_to_group = sizes[groups] >= count
        nearest, distances = np.empty((len(points), 0), np.int64), np.empty((len(points), 0))
        for there in _blocks(others, np.arange(len(others.dataset))):
            rows = np.arange(there.start, there.stop)
            apart = _squared_distances(points, _points(others, rows))
            apart[keeps_to_group[:, None] & (groups[:, None] != other_groups[rows])] = np.inf
            distances = np.concatenate([distances, apart], axis=1)
            nearest = np.concatenate([nearest, np.broadcast_to(rows, apart.shape)], axis=1)
            # stable: what came first, of a lower row, stays first
            order = np.argsort(distances, axis=1, kind="stable")[:, :count]
            nearest, distances = np.take_along_axis(nearest, order, 1), np.take_along_axis(distances, order, 1)
        found[block] = nearest
    return found


def _blocks(rows: Rows, numbers: np.ndarray) -> list[slice]:
    """Of `numbers`."""
    num_bytes = _points(rows, numbers[:1]).nbytes
    size = max(1, min(_BLOCK_BYTES // max(num_bytes, 1), _MAX_BLOCK))
    return [slice(start, min(start + size, len(numbers))) for start in range(0, len(numbers), size)]


def _points(rows: Rows, numbers: np.ndarray) -> np.ndarray:
    """float64 [n, d]."""
    contents = rows.read(numbers)
    if contents.dtype != np.uint8:  # a mean, then a log-variance
        contents = contents[:, : contents.shape[1] // 2]
    return contents.reshape(len(contents), math.prod(contents.shape[1:])).astype(np.float64)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[len(a), len(b)]."""
    squares = np.einsum("nd,nd->n", a, a)[:, None] + np.einsum("nd,nd->n", b, b)
    return squares - 2 * (a @ b.T)


def neighbours_path(
    folder: Path, asked: Rows, others: Rows, count: int, asked_groups: np.ndarray, other_groups: np.ndarray
) -> Path:
    """Where in `folder` these neighbours are kept: the name changes with all that decides them, samples first."""
    kind = f"{asked.read(np.arange(1)).shape[1:]} {count}"
    told = [asked.dataset.fingerprint, others.dataset.fingerprint, kind]
    told += [hashlib.sha256(groups.tobytes()).hexdigest() for groups in (asked_groups, other_groups)]
    return folder / f"neighbours-{hashlib.sha256(' '.join(told).encode()).hexdigest()[:16]}.npy"


def write_neighbours(path: Path, rows: np.ndarray) -> None:
    """Writes what `nearest_rows` found; the file is there only when it is whole."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def open_neighbours(path: Path, num_asked: int, num_others: int) -> np.ndarray:
    """int64 [num_asked, count], memory-mapped, read only; raises `DataError` for a file that is none."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        rows = np.empty(0)
    is_one = rows.dtype == np.int64 and rows.ndim == 2 and len(rows) == num_asked and rows.size > 0
    if not is_one or rows.min() < 0 or rows.max() >= num_others:
        raise DataError(f"{path}: damaged: remove it, and the same command makes it again")
    return rows
