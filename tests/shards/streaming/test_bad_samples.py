"""A sample that cannot be read: an error, or weight 0 in its place."""

from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import DataError, Dataset, Stream, build


@pytest.fixture
def damaged(digits: Dataset, tmp_path: Path) -> Dataset:
    """The digits with three contents overwritten by zeros."""
    dataset = build("digits", tmp_path / "digits")
    tar = dataset.files.paths[0]
    data = bytearray(tar.read_bytes())
    for i in (5, 50, 500):
        offset, length = int(dataset.index["offset"][i]), int(dataset.index["length"][i])
        data[offset : offset + length] = bytes(length)
    tar.write_bytes(data)
    return Dataset.open(dataset.path)


BAD = {"digit-00005", "digit-00050", "digit-00500"}


def test_error_is_the_default(damaged: Dataset) -> None:
    with pytest.raises(DataError, match=r"digit-00(005|050|500)': cannot be decoded"):
        Stream(damaged, seed=0, batch_size=1797).batch(0)


@pytest.mark.parametrize("world_size", [1, 3])
def test_skip_keeps_the_place_with_weight_zero(damaged: Dataset, digits: Dataset, world_size: int) -> None:
    stream = Stream(damaged, seed=0, batch_size=1000, on_bad_sample="skip")
    whole = Stream(digits, seed=0, batch_size=1000, window_shards=7)
    parts = [stream.batch(b, rank, world_size) for b in range(2) for rank in range(world_size)]
    again = stream.batch(0)
    is_bad = np.array([key in BAD for key in again.keys])
    assert again.weights.tolist() == (~is_bad).astype(float).tolist()
    assert (again.images[is_bad] == -1).all()
    # the neighbours are what they are without the damage
    images = {key: image for part in parts for key, image in zip(part.keys, part.images, strict=True)}
    undamaged = whole.batch(0)
    for key, image in zip(undamaged.keys, undamaged.images, strict=True):
        if key in images and key not in BAD:
            np.testing.assert_array_equal(images[key], image)
    named = dict(bad for part in parts for bad in part.bad_samples)
    assert named.keys() == BAD
    assert all(f"{key}': cannot be decoded" in what for key, what in named.items())


def test_its_caption_is_still_read(tmp_path: Path) -> None:
    """Targets are made of what a sample is told, whatever its weight is."""
    dataset = build("digits-in-ink", tmp_path / "data")
    tar = dataset.files.paths[0]
    content = bytearray(tar.read_bytes())
    offset, length = int(dataset.index["offset"][5]), int(dataset.index["length"][5])
    content[offset : offset + length] = bytes(length)
    tar.write_bytes(content)
    damaged = Dataset.open(dataset.path)
    batch = Stream(damaged, seed=0, batch_size=len(damaged), on_bad_sample="skip").batch(0)
    (place,) = np.flatnonzero(batch.weights == 0)
    assert batch.keys[place] == damaged.key(5) and batch.texts[place] == damaged.text(5) != ""


def test_every_sample_bad_still_gives_batches(digits: Dataset, tmp_path: Path) -> None:
    dataset = build("digits", tmp_path / "digits")
    dataset.files.paths[0].write_bytes(bytes(dataset.manifest.shards[0].bytes))
    stream = Stream(dataset, seed=0, batch_size=4, on_bad_sample="skip")
    parts = [stream.batch(0, rank, 8) for rank in range(8)]
    assert sum(part.weights.sum() for part in parts) == 0
    assert {part.images.shape for part in parts} == {(1, 1, 8, 8)}


def test_unknown_policy(digits: Dataset) -> None:
    with pytest.raises(DataError, match="on_bad_sample: 'ignore'"):
        Stream(digits, seed=0, batch_size=1, on_bad_sample="ignore")  # pyright: ignore[reportArgumentType]
