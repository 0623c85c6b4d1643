"""Contents of samples by their rows, in any order."""

from __future__ import annotations

import numpy as np

from ..dataset import Dataset
from .loaders import latents_loader, make_loader
from .transform import Transform


class Rows:
    """What a `Stream` of the same options gives of each sample, without an order. Threads may share one."""

    def __init__(self, dataset: Dataset, *, image_size: int, channels: int, latents: bool) -> None:
        """latents: give what an autoencoder made of the images, stored beside them, in place of the images."""
        self.dataset = dataset
        self._loader = latents_loader(dataset) if latents else make_loader(dataset, Transform(image_size, channels))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [n, C, H, W], or latents float32 [n, 2 · channels, h, w]; raises `DataError` naming a bad sample."""
        buffers, index = self._loader.allocate(len(rows)), self.dataset.index
        places = zip(*(index[field][rows].tolist() for field in self._loader.place_fields), strict=True)
        for k, (row, place) in enumerate(zip(rows.tolist(), places, strict=True)):
            self._loader.load(row, place, buffers, k)
        (contents,) = buffers.values()
        return contents
