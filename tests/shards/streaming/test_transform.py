"""The middle square, resizing and scaling."""

import io
from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import Dataset, Stream, build
from erasediff.shards.streaming.transform import Transform, normalise
from PIL import Image


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def transform(size: int, pixels: np.ndarray) -> np.ndarray:
    """Pixels to pixels, grey."""
    return np.asarray(Transform(size, channels=1)(png(pixels), ""))


def test_scaling_is_exact() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    images = normalise(pixels)
    assert images.dtype == np.float32
    expected = np.arange(256, dtype=np.float64) / 127.5 - 1
    np.testing.assert_array_equal(images.ravel(), ((np.arange(256) - 127.5) / 127.5).astype(np.float32))
    np.testing.assert_allclose(images.ravel(), expected, atol=1e-7)
    assert (images.min(), images.max()) == (-1, 1)


def test_colours_stay_in_their_channels(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 1] = 128
    pixels[..., 2] = 255
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "0.png").write_bytes(png(pixels))
    images = Stream(build(tmp_path / "in", tmp_path / "out"), seed=0, batch_size=1).batch(0).images
    assert images.shape == (1, 3, 4, 6)
    assert [float(channel[0, 0]) for channel in images[0]] == [-1, pytest.approx(1 / 255), 1]


def test_the_middle_is_kept() -> None:
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 255
    assert (transform(10, pixels) == 255).all()
    assert (transform(10, pixels.T.copy()) == 255).all()


def test_resizing_keeps_the_mean() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    assert abs(transform(16, pixels).mean() - pixels.mean()) < 2
    assert (transform(100, np.full((7, 9), 77, np.uint8)) == 77).all()


def test_uint8_pixels(digits: Dataset) -> None:
    scaled = Stream(digits, seed=0, batch_size=9).batch(1).images
    raw = Stream(digits, seed=0, batch_size=9, dtype="uint8").batch(1).images
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(scaled, (raw.astype(np.float32) - 127.5) / np.float32(127.5))
