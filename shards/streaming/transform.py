"""Encoded image → pixels of the asked size; crop and flip are functions of (seed, position)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ..format.images import open_image
from .order import random_words

_SALT = 0x637270
Crop = Literal["center", "random"]


@dataclass(frozen=True)
class Transform:
    """How an image becomes the network's input."""

    image_size: int | None
    """Pixels of each side; None keeps the image as it is."""
    channels: int
    crop: Crop
    """Which square of an oblong image: the middle one, or one anywhere."""
    flip: bool
    """Mirror every other image, left to right."""
    seed: int

    def __call__(self, data: bytes, where: str, position: int) -> Image.Image:
        """Decode, as mode L or RGB; raises `DataError` naming `where`."""
        image = open_image(data, where)
        across, mirror = self._draw(position) if self.flip or self.crop == "random" else (0.5, False)
        if self.image_size is not None and image.size != (self.image_size, self.image_size):
            image = _square(image, self.image_size, across if self.crop == "random" else 0.5)
        if self.flip and mirror:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mode = "L" if self.channels == 1 else "RGB"
        return image if image.mode == mode else image.convert(mode)

    def _draw(self, position: int) -> tuple[float, bool]:
        """A number in [0, 1) and a coin."""
        word = int(random_words((self.seed, _SALT), np.array([position]))[0])
        return (word >> 11) / (1 << 53), bool(word & 1)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """uint8 [n, ...] → float32 of the same shape; 0 becomes exactly -1, 255 exactly 1."""
    images = np.empty(pixels.shape, dtype=np.float32)
    # image by image: both passes over one stay in the cache
    for image, source in zip(images, pixels, strict=True):
        np.subtract(source, np.float32(127.5), out=image)
        np.divide(image, np.float32(127.5), out=image)
    return images


def _square(image: Image.Image, size: int, across: float) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) * across, (image.height - side) * across
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
