"""Images as pixels, and several as one picture."""

from __future__ import annotations

import numpy as np
import torch
from erasediff.trainer.models.pictures import black_images, to_grid, to_pixels


def test_pixels_are_the_levels_from_black_to_white() -> None:
    values = torch.tensor([-1.0, 1.0, 0.5, -0.2, -7.0, 7.0, torch.nan, torch.inf])
    found = to_pixels(values.view(1, 2, 2, 2))  # two channels
    assert found.shape == (1, 2, 2, 2) and found.dtype == np.uint8
    # ((v + 1) / 2 · 255, rounded; what is not finite is black, but +∞ is white
    assert found[0].transpose(2, 0, 1).ravel().tolist() == [0, 255, 191, 102, 0, 255, 0, 255]


def test_black_is_every_pixel_of_a_picture() -> None:
    """As it would be written: half a level above black is still black."""
    level = 2 / 255
    images = torch.full((6, 3, 2, 2), -1.0)
    images[1] += 0.49 * level
    images[2, 1, 0, 1] += 0.51 * level
    images[3] = torch.nan
    images[4, 2] = torch.nan
    images[4, 0, 0, 0] = 1
    images[5] = 0
    assert black_images(images).tolist() == [True, True, False, True, False, False]
    assert black_images(images[:0]).tolist() == []


def test_a_grid_has_a_grey_pixel_between_images_and_fills_row_by_row() -> None:
    """Three 2 × 3 images in two columns: 2·2 + 1 high, 2·3 + 1 wide, the fourth place grey."""
    images = torch.stack([torch.full((1, 2, 3), value) for value in (-1.0, 1.0, 0.0)])
    picture = np.array(to_grid(images, num_columns=2))
    expected = np.full((5, 7), 128)
    expected[:2, :3], expected[:2, 4:], expected[3:, :3] = 0, 255, 128
    assert picture.shape == (5, 7)
    assert (picture == expected).all()
    larger = np.array(to_grid(images, num_columns=2, scale=3))
    assert (larger == expected.repeat(3, 0).repeat(3, 1)).all()
    colour = to_grid(torch.zeros(1, 3, 2, 2), num_columns=1)
    assert colour.mode == "RGB" and colour.size == (2, 2)
