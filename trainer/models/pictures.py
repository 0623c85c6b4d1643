"""Images as pixels and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# of pictures that a model makes: with more, something is wrong with the model, not with a prompt
MAX_BLACK_SHARE = 0.01


def to_pixels(images: Tensor) -> np.ndarray:
    """Images [N, C, H, W] in [-1, 1] as uint8 [N, H, W, C]; what is not finite becomes black."""
    levels = ((images + 1) * 127.5).round().clamp(0, 255).nan_to_num(0)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).numpy()


def black_images(images: Tensor) -> Tensor:
    """Which of images [N, C, H, W] in [-1, 1] are black as pictures, every pixel 0 of 255: bool [N].

    It is what a safety checker leaves, and how NaN, which an overflow in fp16 becomes, is drawn.
    """
    return torch.from_numpy((to_pixels(images) == 0).all((1, 2, 3)))


def from_pixels(pixels: Tensor) -> Tensor:
    """uint8 as fp32 in [-1, 1], rounded as `shards.streaming.transform.normalise` rounds."""
    return (pixels.float() - 127.5) / 127.5


def to_grid(images: Tensor, num_columns: int, scale: int = 1) -> Image.Image:
    """Images [N, C, H, W] in [-1, 1] as one picture, row by row, a pixel between them; enlarged by `scale`."""
    pixels = to_pixels(images)
    num, height, width, channels = pixels.shape
    num_rows = -(-num // num_columns)
    canvas = np.full((num_rows * (height + 1) - 1, num_columns * (width + 1) - 1, channels), 128, np.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // num_columns) * (height + 1), (i % num_columns) * (width + 1)
        canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def with_names(grid: Image.Image, names: Sequence[str]) -> Image.Image:
    """The grid's rows with a name each at their left; as it is where all names are empty."""
    if not any(names):
        return grid
    height = grid.height / len(names)
    font = ImageFont.load_default(max(8.0, min(16.0, height / 2)))
    margin = round(max(font.getlength(name) for name in names)) + 12
    picture = Image.new("RGB", (margin + grid.width, grid.height), "white")
    picture.paste(grid, (margin, 0))
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(names):
        draw.text((margin - 6, (row + 0.5) * height), name, fill="black", font=font, anchor="rm")
    return picture
