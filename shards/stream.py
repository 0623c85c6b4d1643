"""Batches out of a dataset, in an order that does not depend on ranks, workers or restarts."""

from dataclasses import dataclass

import numpy as np

from .dataset import Dataset
from .errors import DataError
from .order import Order
from .transform import load_pixels, normalise

DEFAULT_WINDOW_SHARDS = 16


@dataclass(frozen=True)
class SampleBatch:
    """One rank's part of a global batch; n = ceil(batch_size / world_size) on every rank."""

    images: np.ndarray
    """float32 [n, C, H, W] in [-1, 1]."""
    labels: np.ndarray
    """int64 [n], -1 where a sample has none."""
    weights: np.ndarray
    """float32 [n]: 1, or 0 for a row that only fills up (a copy of a real sample)."""
    positions: np.ndarray
    """int64 [n]: place in the infinite sequence; a filling row has the place of the sample it copies."""
    keys: tuple[str, ...]


class Stream:
    """The infinite sequence of `dataset`'s samples, cut into global batches.

    The order is a pure function of (`seed`, position): batch b is positions [b·B, (b+1)·B), crossing epochs, whatever
    the number of ranks. There is no state: resuming is calling `batch` with the next number.

    image_size: pixels; images become squares of it (shorter side resized, middle kept). None takes them as they are,
        and raises `DataError` if they differ.
    channels: 1 or 3; None keeps the dataset's, or takes 3 where images differ.
    window_shards: samples mix within so many shards; more mixes better, less keeps reads in fewer files.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        batch_size: int,
        image_size: int | None = None,
        channels: int | None = None,
        window_shards: int = DEFAULT_WINDOW_SHARDS,
    ) -> None:
        _check_options(batch_size, image_size, channels, window_shards)
        shape = dataset.image_shape
        if image_size is None and shape is None:
            raise DataError(f"{dataset.path}: images differ in size; set image_size (pixels)")
        self.dataset = dataset
        self.batch_size = batch_size
        self.image_size = image_size
        self.channels = channels or (shape.channels if shape else 3)
        sizes = [shard.num_samples for shard in dataset.manifest.shards]
        self._order = Order(sizes, seed=seed, window_shards=window_shards)

    def batch(self, b: int, rank: int = 0, world_size: int = 1) -> SampleBatch:
        """Rows [rank·n, (rank+1)·n) of global batch `b`, n = ceil(batch_size / world_size).

        Every rank gets n rows: past the batch's end they repeat its last sample with weight 0. Raises `DataError` for a
        sample that cannot be read or decoded.
        """
        if not 0 <= rank < world_size or b < 0:
            raise ValueError(f"batch {b}, rank {rank} of {world_size}: expected b >= 0 and 0 <= rank < world_size")
        num_rows = -(-self.batch_size // world_size)
        places = np.arange(rank * num_rows, (rank + 1) * num_rows)
        positions = b * self.batch_size + np.minimum(places, self.batch_size - 1)
        rows = self._order.rows(positions)
        return SampleBatch(
            images=normalise(self._pixels(rows)),
            labels=self.dataset.index["label"][rows].astype(np.int64),
            weights=(places < self.batch_size).astype(np.float32),
            positions=positions,
            keys=tuple(key.decode() for key in self.dataset.index["key"][rows].tolist()),
        )

    def _pixels(self, rows: np.ndarray) -> np.ndarray:
        # filling rows and small datasets repeat samples: decode each once
        distinct, inverse = np.unique(rows, return_inverse=True)
        return np.stack([self._load(row) for row in distinct.tolist()])[inverse]

    def _load(self, row: int) -> np.ndarray:
        dataset = self.dataset
        return load_pixels(dataset.read_bytes(row), dataset.where(row), self.image_size, self.channels)


def _check_options(batch_size: int, image_size: int | None, channels: int | None, window_shards: int) -> None:
    if batch_size < 1:
        raise DataError(f"batch_size: {batch_size}; at least 1 is needed")
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size: {image_size} pixels; at least 1 is needed")
    if channels not in (None, 1, 3):
        raise DataError(f"channels: {channels}; 1 (grey) or 3 (RGB) are possible")
    if window_shards < 1:
        raise DataError(f"window_shards: {window_shards}; at least 1 is needed")
