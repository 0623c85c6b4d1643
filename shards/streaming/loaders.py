"""Content of samples → rows of a batch: images decoded, arrays read straight into place."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..dataset import Dataset
from ..errors import DataError
from ..format.arrays import Layout, array_layout
from ..format.index import IMAGE_EXTENSIONS
from .transform import Transform

Buffers = dict[str, np.ndarray]
PIXELS = "pixels"
Place = tuple[int, int, int]
"""Shard, offset and length in bytes of a sample's content, as the index has them."""


class Loader(Protocol):
    """Fills one row of a batch at a time; safe to share between threads."""

    def allocate(self, num_rows: int) -> Buffers:
        """Arrays [num_rows, ...] by name, to be filled by `load`."""
        ...

    def load(self, dataset: Dataset, row: int, place: Place, position: int, buffers: Buffers, k: int) -> None:
        """Fill row `k` with sample `row` of `dataset`; raises `DataError` when it cannot be read."""
        ...


class ImageLoader:
    """Decodes images of one size."""

    def __init__(self, transform: Transform, height: int, width: int) -> None:
        self._transform = transform
        self._shape = (transform.channels, height, width)

    def allocate(self, num_rows: int) -> Buffers:
        return {PIXELS: np.empty((num_rows, *self._shape), dtype=np.uint8)}

    def load(self, dataset: Dataset, row: int, place: Place, position: int, buffers: Buffers, k: int) -> None:
        where = dataset.where(row)
        image = self._transform(dataset.files.read(*place), where, position)
        _, height, width = self._shape
        if image.size != (width, height):
            found = f"{image.width} × {image.height} pixels, expected {width} × {height}"
            raise DataError(f"{where}: {found}; set image_size, or build the dataset again")
        # Pillow takes channels apart faster than numpy transposes
        for channel, plane in zip(buffers[PIXELS][k], image.split(), strict=True):
            channel[:] = plane


class ArrayLoader:
    """Reads `.npy` and `.safetensors`; every sample has the header of the first."""

    def __init__(self, first: Dataset) -> None:
        data = first.read_bytes(0)
        self._extension = first.extension(0)
        self._layout: Layout = array_layout(data, self._extension, first.where(0))
        self._header = data[: min((place.start for place in self._layout), default=len(data))]
        self._num_bytes = len(data)

    def allocate(self, num_rows: int) -> Buffers:
        return {place.name: np.empty((num_rows, *place.shape), dtype=place.dtype) for place in self._layout}

    def load(self, dataset: Dataset, row: int, place: Place, position: int, buffers: Buffers, k: int) -> None:
        shard, offset, num_bytes = place
        header = bytearray(len(self._header))
        # a slice, since one element of an array of numbers is a copy
        targets = [memoryview(header), *[buffers[array.name][k : k + 1].data for array in self._layout]]
        if num_bytes == self._num_bytes:
            dataset.files.read_into(shard, offset, targets, num_bytes)
        if header != self._header:
            expected = ", ".join(f"{array.name} {array.dtype} {array.shape}" for array in self._layout)
            raise DataError(f"{dataset.where(row)}: not the arrays of the first sample ({expected}); build it again")


def make_loader(datasets: Sequence[Dataset], transform: Transform) -> Loader:
    """The loader for what the datasets hold: images or arrays, not both. Raises `DataError`."""
    kinds = {name for dataset in datasets for name in _extensions(dataset)}
    if kinds <= set(IMAGE_EXTENSIONS):
        return _image_loader(datasets, transform)
    if len(kinds) == 1:
        return ArrayLoader(datasets[0])
    raise DataError(f"{datasets[0].path}: samples of different kinds ({', '.join(sorted(kinds))}); build them apart")


def _image_loader(datasets: Sequence[Dataset], transform: Transform) -> ImageLoader:
    if transform.image_size is not None:
        return ImageLoader(transform, transform.image_size, transform.image_size)
    shapes = {dataset.image_shape and (dataset.image_shape.height, dataset.image_shape.width) for dataset in datasets}
    shape = shapes.pop()
    if shapes or shape is None:
        raise DataError(f"{datasets[0].path}: images differ in size; set image_size (pixels)")
    return ImageLoader(transform, *shape)


def _extensions(dataset: Dataset) -> list[str]:
    # a few rows tell: looking at all would read an index of gigabytes; the loaders check each sample
    rows = np.unique(np.linspace(0, len(dataset) - 1, 16).astype(np.int64))
    return [dataset.extension(row) for row in rows.tolist()]
