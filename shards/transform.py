"""Decoded image → the network's input."""

import numpy as np
from PIL import Image

from .images import open_image, to_array


def load_pixels(data: bytes, where: str, image_size: int | None, channels: int) -> np.ndarray:
    """Decode to uint8 [C, H, W]; with `image_size`, the middle square, resized to that many pixels."""
    image = open_image(data, where)
    if image_size is not None and image.size != (image_size, image_size):
        image = _fit(image, image_size)
    image = image.convert("L" if channels == 1 else "RGB")
    return to_array(image).transpose(2, 0, 1)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """uint8 → float32 in [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def _fit(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
