"""Batches out of a dataset, in an order that does not depend on ranks, workers or restarts."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..dataset import Dataset, decode_key
from ..errors import DataError
from .loaders import PIXELS, Buffers, ImageLoader, latents_loader, make_loader
from .order import Order
from .transform import Transform, normalise

# a window has as many shards as hold so many samples, and at least so many
WINDOW_SAMPLES, MIN_WINDOW_SHARDS = 1 << 18, 16


@dataclass(frozen=True)
class SampleBatch:
    """One rank's part of a global batch; n = ceil(batch_size / world_size) on every rank."""

    images: np.ndarray
    """float32 [n, C, H, W] in [-1, 1], or uint8 if the stream was asked for it; [n, 0, 0, 0] for samples of arrays."""
    labels: np.ndarray
    """int64 [n], -1 where a sample has none."""
    weights: np.ndarray
    """float32 [n]: 1, or 0 for a row that only fills up (a copy of a real sample) or could not be read (black)."""
    positions: np.ndarray
    """int64 [n]: place in the infinite sequence; a filling row has the place of the sample it copies."""
    keys: tuple[str, ...]
    texts: tuple[str, ...] = ()
    """Captions, empty where a sample has none."""
    bad_samples: tuple[tuple[str, str], ...] = ()
    """(key, what is wrong) of the samples that could not be read."""
    arrays: Buffers | None = None
    """Name → [n, ...] in the dtype they are stored in, where samples are arrays; an `.npy` is named `array`."""
    latents: np.ndarray | None = None
    """float32 [n, 2 · channels, h, w], mean and log-variance, if the stream was asked for them; no images then."""


class Stream:
    """The infinite sequence of samples, cut into global batches.

    The order is a pure function of (`seed`, position): batch b is positions [b·B, (b+1)·B), crossing epochs, whatever
    the number of ranks. There is no state: resuming is calling `batch` with the next number. Threads may share one.

    image_size: pixels; images become squares of it (the middle square, resized). None takes them as they are, and
        raises `DataError` if they differ.
    channels: 1 or 3; None keeps the dataset's, or takes 3 where images differ.
    dtype: "uint8" leaves the pixels as they are, to be scaled on the device.
    window_shards: samples mix within so many shards; more mixes better, less keeps reads in fewer files. None: 16, or
        where shards are small as many as hold 262,144 samples, since tars that others wrote may have a class each.
    latents: give what an autoencoder made of the images, stored beside them, in place of the images.
    on_bad_sample: "error" raises; "skip" gives a sample that cannot be read weight 0 in its place, and names it in the
        batch's `bad_samples`. How many are too many is the caller's to say.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        batch_size: int,
        image_size: int | None = None,
        channels: int | None = None,
        dtype: Literal["float32", "uint8"] = "float32",
        window_shards: int | None = None,
        latents: bool = False,
        on_bad_sample: Literal["error", "skip"] = "error",
    ) -> None:
        _check_options(batch_size, image_size, channels, dtype, window_shards, on_bad_sample)
        self._dataset = dataset
        self.batch_size = batch_size
        self._skips_bad_samples = on_bad_sample == "skip"
        self._dtype = dtype
        own_channels = dataset.image_shape.channels if dataset.image_shape else 3
        self._gives_latents = latents
        transform = Transform(image_size, channels or own_channels)
        self._loader = latents_loader(dataset) if latents else make_loader(dataset, transform)
        shard_sizes = [shard.num_samples for shard in dataset.manifest.shards]
        if window_shards is None:
            window_shards = max(MIN_WINDOW_SHARDS, -(-WINDOW_SAMPLES * len(shard_sizes) // max(1, sum(shard_sizes))))
        self._order = Order(shard_sizes, seed=seed, window_shards=window_shards)

    @property
    def num_bytes_read(self) -> int:
        """Of the dataset's shards, by this process."""
        return self._dataset.files.num_bytes_read

    def batch(self, b: int, rank: int = 0, world_size: int = 1) -> SampleBatch:
        """Rows [rank·n, (rank+1)·n) of global batch `b`, n = ceil(batch_size / world_size).

        Every rank gets n rows: past the batch's end they repeat its last sample with weight 0. Raises `DataError` for a
        sample that cannot be read or decoded, unless those are skipped.
        """
        if not 0 <= rank < world_size or b < 0:
            raise ValueError(f"batch {b}, rank {rank} of {world_size}: expected b >= 0 and 0 <= rank < world_size")
        num_rows = -(-self.batch_size // world_size)
        places = np.arange(rank * num_rows, (rank + 1) * num_rows)
        positions = b * self.batch_size + np.minimum(places, self.batch_size - 1)
        rows = self._order.rows(positions)
        keys = tuple(decode_key(key) for key in self._dataset.index["key"][rows].tolist())
        texts = [""] * num_rows
        buffers, is_good, bad_samples = self._load(positions, rows, keys, texts)
        # an array may be called like the pixels of images
        pixels = buffers.pop(PIXELS) if isinstance(self._loader, ImageLoader) else None
        latents = buffers.pop("array") if self._gives_latents else None
        return SampleBatch(
            images=np.empty((num_rows, 0, 0, 0), np.float32) if pixels is None else self._images(pixels),
            labels=self._dataset.labels_at(rows),
            weights=((places < self.batch_size) & is_good).astype(np.float32),
            positions=positions,
            keys=keys,
            texts=tuple(texts),
            bad_samples=bad_samples,
            arrays=buffers or None,
            latents=latents,
        )

    def _load(
        self, positions: np.ndarray, rows: np.ndarray, keys: tuple[str, ...], texts: list[str]
    ) -> tuple[Buffers, np.ndarray, tuple[tuple[str, str], ...]]:
        """Contents, which of them are good, and what is wrong with the others; fills `texts`."""
        buffers = self._loader.allocate(len(positions))
        is_good = np.ones(len(positions), dtype=bool)
        bad_samples: dict[str, str] = {}
        index = self._dataset.index
        places = list(zip(*(index[field][rows].tolist() for field in self._loader.place_fields), strict=True))
        first: dict[int, int] = {}
        for k, position in enumerate(positions.tolist()):
            same = first.setdefault(position, k)
            if same != k:
                _copy_row(buffers, same, k)
                texts[k], is_good[k] = texts[same], is_good[same]
                continue
            row = int(rows[k])
            try:
                self._loader.load(row, places[k], buffers, k)
                texts[k] = self._dataset.text(row)
            except DataError as error:
                if not self._skips_bad_samples:
                    raise
                bad_samples[keys[k]] = str(error)
                is_good[k] = False
                _clear_row(buffers, k)
                with suppress(DataError):  # targets are drawn of its weight of 0, too
                    texts[k] = self._dataset.text(row)
        return buffers, is_good, tuple(bad_samples.items())

    def _images(self, pixels: np.ndarray) -> np.ndarray:
        return pixels if self._dtype == "uint8" else normalise(pixels)


def _copy_row(buffers: Buffers, source: int, target: int) -> None:
    for buffer in buffers.values():
        buffer[target] = buffer[source]


def _clear_row(buffers: Buffers, k: int) -> None:
    for buffer in buffers.values():
        buffer[k] = 0


def _check_options(
    batch_size: int,
    image_size: int | None,
    channels: int | None,
    dtype: str,
    window_shards: int | None,
    on_bad_sample: str,
) -> None:
    if batch_size < 1:
        raise DataError(f"batch_size: {batch_size}; at least 1 is needed")
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size: {image_size} pixels; at least 1 is needed")
    if channels not in (None, 1, 3):
        raise DataError(f"channels: {channels}; 1 (grey) or 3 (RGB) are possible")
    if dtype not in ("float32", "uint8"):
        raise DataError(f"dtype: {dtype!r}; float32 and uint8 are possible")
    if window_shards is not None and window_shards < 1:
        raise DataError(f"window_shards: {window_shards}; at least 1 is needed")
    if on_bad_sample not in ("error", "skip"):
        raise DataError(f"on_bad_sample: {on_bad_sample!r}; error and skip are possible")
