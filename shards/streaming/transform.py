"""Encoded image → pixels of the asked size."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..format.images import open_image


@dataclass(frozen=True)
class Transform:
    """How an image becomes the network's input."""

    image_size: int | None
    """Pixels of each side, of the middle square; None keeps the image as it is."""
    channels: int

    def __call__(self, data: bytes, where: str) -> Image.Image:
        """Decode, as mode L or RGB; raises `DataError` naming `where`."""
        image = open_image(data, where)
        if self.image_size is not None and image.size != (self.image_size, self.image_size):
            image = _square(image, self.image_size)
        mode = "L" if self.channels == 1 else "RGB"
        return image if image.mode == mode else image.convert(mode)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """uint8 [n, ...] → float32 of the same shape; 0 becomes exactly -1, 255 exactly 1."""
    images = np.empty(pixels.shape, dtype=np.float32)
    # image by image: both passes over one stay in the cache
    for image, source in zip(images, pixels, strict=True):
        np.subtract(source, np.float32(127.5), out=image)
        np.divide(image, np.float32(127.5), out=image)
    return images


def _square(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
