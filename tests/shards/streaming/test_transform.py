"""Resize, crop, flip and scaling."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from erasediff.shards import Dataset, Stream, build
from erasediff.shards.streaming.transform import Transform, normalise
from PIL import Image


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def transform(
    size: int | None, channels: int = 1, crop: Literal["center", "random"] = "center", flip: bool = False
) -> Callable[[np.ndarray, int], np.ndarray]:
    """Pixels and a position to pixels."""
    function = Transform(size, channels, crop, flip, seed=9)
    return lambda pixels, position: np.asarray(function(png(pixels), "", position))


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
    assert (transform(10)(pixels, 0) == 255).all()
    assert (transform(10)(pixels.T.copy(), 0) == 255).all()


def test_resizing_keeps_the_mean() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    assert abs(transform(16)(pixels, 0).mean() - pixels.mean()) < 2
    assert (transform(100)(np.full((7, 9), 77, np.uint8), 0) == 77).all()


def test_random_crop_and_flip_depend_on_the_position_alone() -> None:
    pixels = np.tile(np.arange(30, dtype=np.uint8), (10, 1))
    augment = transform(10, crop="random", flip=True)
    views = [augment(pixels, position)[0].astype(int) for position in range(400)]
    again = [augment(pixels, position)[0].astype(int) for position in range(400)]
    np.testing.assert_array_equal(views, again)
    mirrored = np.mean([view[0] > view[-1] for view in views])
    assert 0.42 < mirrored < 0.58
    lefts = np.array([view.min() for view in views])
    assert set(lefts.tolist()) >= set(range(1, 20))
    assert abs(lefts.mean() - 10) < 1.5


def test_ranks_augment_alike(pictures: Path, tmp_path: Path) -> None:
    dataset = build(pictures, tmp_path / "pets")
    stream = Stream(dataset, seed=5, batch_size=20, image_size=7, crop="random", flip=True)
    whole = stream.batch(2)
    parts = [stream.batch(2, rank, 3) for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts])[:20], whole.images)
    # the same picture in another epoch is seen another way
    views = {image.tobytes() for image, key in zip(whole.images, whole.keys, strict=True) if key == whole.keys[0]}
    assert len(views) == whole.keys.count(whole.keys[0])


def test_uint8_pixels(digits: Dataset) -> None:
    scaled = Stream(digits, seed=0, batch_size=9).batch(1).images
    raw = Stream(digits, seed=0, batch_size=9, dtype="uint8").batch(1).images
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(scaled, (raw.astype(np.float32) - 127.5) / np.float32(127.5))
