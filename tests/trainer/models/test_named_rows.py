"""A sample's picture: which row is called what, and what its file's name decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from erasediff.trainer.config import ModelConfig, SampleConfig, SamplingConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.pictures import to_grid, with_names
from erasediff.trainer.sample import run_sample
from PIL import Image


def test_names_stand_at_the_left_of_their_rows() -> None:
    grid = to_grid(torch.rand(6, 3, 8, 8) * 2 - 1, num_columns=2, scale=4)
    named = with_names(grid, ["tench", "", "gas pump"])
    assert named.height == grid.height and named.width > grid.width
    pixels = np.asarray(named)
    np.testing.assert_array_equal(pixels[:, -grid.width :], np.asarray(grid))
    margin = pixels[:, : -grid.width]
    ink = np.any(margin < 128, axis=(1, 2))
    third = grid.height // 3
    assert ink[:third].any() and ink[-third:].any() and not ink[third + 2 : 2 * third - 2].any()
    # the longer name begins further left
    starts = [(margin[rows] < 128).any((0, 2)).argmax() for rows in (slice(0, third), slice(-third, None))]
    assert starts[1] < starts[0]
    assert with_names(grid, ["", "", ""]) is grid


def test_classes_by_name_and_formats_by_the_files(base_model: Path, tmp_path: Path) -> None:
    def drawn(name: str, labels: tuple[int | str, ...]) -> Image.Image:
        classes = tuple("abcdefghij")
        model = ModelConfig(str(base_model), null_class=10, classes=classes)
        sampling = SamplingConfig(num_inference_steps=2)
        config = SampleConfig(model, str(tmp_path / name), labels, num_images=2, device="cpu", sampling=sampling)
        with Image.open(run_sample(config)) as picture:
            return picture.copy()

    by_name, by_number = drawn("one.png", ("d", "a")), drawn("two.png", (3, 0))
    np.testing.assert_array_equal(np.asarray(by_name), np.asarray(by_number))
    other = drawn("three.png", ("a", "d"))
    assert other.size == by_name.size and np.asarray(other).tolist() != np.asarray(by_name).tolist()
    assert drawn("four.JPG", ("d",)).format is None and (tmp_path / "four.JPG").read_bytes()[:3] == b"\xff\xd8\xff"
    with pytest.raises(ConfigError, match=r"picture\.gif': a picture's file ends in \.png, \.jpg"):
        drawn("picture.gif", ("d",))
    with pytest.raises(ConfigError, match="labels = k is no class of the model"):
        drawn("five.png", ("k",))
