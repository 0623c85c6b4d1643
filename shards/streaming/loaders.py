"""Content of samples → rows of a batch: images decoded, arrays read straight into place."""

from typing import Protocol

import numpy as np

from ..dataset import Dataset
from ..errors import DataError
from ..format.arrays import Layout, array_layout
from ..format.index import IMAGE_EXTENSIONS
from .transform import Transform

Buffers = dict[str, np.ndarray]
PIXELS = "pixels"
PlaceFields = tuple[str, str, str]
Place = tuple[int, int, int]
"""Shard, offset and length in bytes of what a loader reads of a sample, as the index has them."""


class Loader(Protocol):
    """Fills one row of a batch of its dataset at a time; safe to share between threads."""

    place_fields: PlaceFields
    """Of the index, where a `Place` comes from."""

    def allocate(self, num_rows: int) -> Buffers:
        """Arrays [num_rows, ...] by name, to be filled by `load`."""
        ...

    def load(self, row: int, place: Place, buffers: Buffers, k: int) -> None:
        """Fill row `k` with sample `row` of the dataset; raises `DataError` when it cannot be read."""
        ...


_CONTENT: PlaceFields = ("shard", "offset", "length")


class ImageLoader:
    """Decodes images of one size."""

    place_fields: PlaceFields = _CONTENT

    def __init__(self, dataset: Dataset, transform: Transform, height: int, width: int) -> None:
        self._dataset = dataset
        self._transform = transform
        self._shape = (transform.channels, height, width)

    def allocate(self, num_rows: int) -> Buffers:
        return {PIXELS: np.empty((num_rows, *self._shape), dtype=np.uint8)}

    def load(self, row: int, place: Place, buffers: Buffers, k: int) -> None:
        where = self._dataset.where(row)
        image = self._transform(self._dataset.files.read(*place), where)
        _, height, width = self._shape
        if image.size != (width, height):
            found = f"{image.width} × {image.height} pixels, expected {width} × {height}"
            raise DataError(f"{where}: {found}; set image_size, or build the dataset again")
        # Pillow takes channels apart faster than numpy transposes
        for channel, plane in zip(buffers[PIXELS][k], image.split(), strict=True):
            channel[:] = plane


class ArrayLoader:
    """Reads `.npy` and `.safetensors`; every sample has the header of the first."""

    def __init__(self, dataset: Dataset, data: bytes, extension: str, place_fields: PlaceFields) -> None:
        """data: the first sample's."""
        self._dataset = dataset
        self.place_fields = place_fields
        self._layout: Layout = array_layout(data, extension, dataset.where(0))
        self._header = data[: min((place.start for place in self._layout), default=len(data))]
        self._num_bytes = len(data)

    def allocate(self, num_rows: int) -> Buffers:
        return {place.name: np.empty((num_rows, *place.shape), dtype=place.dtype) for place in self._layout}

    def load(self, row: int, place: Place, buffers: Buffers, k: int) -> None:
        shard, offset, num_bytes = place
        header = bytearray(len(self._header))
        # a slice, since one element of an array of numbers is a copy
        targets = [memoryview(header), *[buffers[array.name][k : k + 1].data for array in self._layout]]
        if num_bytes == self._num_bytes:
            self._dataset.files.read_into(shard, offset, targets, num_bytes)
        if header != self._header:
            expected = ", ".join(f"{array.name} {array.dtype} {array.shape}" for array in self._layout)
            where = self._dataset.where(row)
            raise DataError(f"{where}: not the arrays of the first sample ({expected}); build it again")


def latents_loader(dataset: Dataset) -> ArrayLoader:
    """The loader for what lies beside the images; raises `DataError` where nothing does."""
    dataset.latents(0)
    return ArrayLoader(dataset, dataset.latents_bytes(0), "npy", ("shard", "latents_offset", "latents_length"))


def make_loader(dataset: Dataset, transform: Transform) -> Loader:
    """The loader for what the dataset holds: images or arrays, not both. Raises `DataError`."""
    kinds = _extensions(dataset)
    if kinds <= set(IMAGE_EXTENSIONS):
        return _image_loader(dataset, transform)
    if len(kinds) == 1:
        return ArrayLoader(dataset, dataset.read_bytes(0), dataset.extension(0), _CONTENT)
    raise DataError(f"{dataset.path}: samples of different kinds ({', '.join(sorted(kinds))}); build them apart")


def _image_loader(dataset: Dataset, transform: Transform) -> ImageLoader:
    if transform.image_size is not None:
        return ImageLoader(dataset, transform, transform.image_size, transform.image_size)
    shape = dataset.image_shape
    if shape is None:
        raise DataError(f"{dataset.path}: images differ in size; set image_size (pixels)")
    return ImageLoader(dataset, transform, shape.height, shape.width)


def _extensions(dataset: Dataset) -> set[str]:
    # a few rows tell: looking at all would read an index of gigabytes; the loaders check each sample
    rows = np.unique(np.linspace(0, len(dataset) - 1, 16).astype(np.int64))
    return {dataset.extension(row) for row in rows.tolist()}
