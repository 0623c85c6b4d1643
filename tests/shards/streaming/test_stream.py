"""The stream's order, its slices over ranks, and what a batch holds."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from erasediff.shards import DataError, Dataset, Stream, build, split
from erasediff.shards.streaming import stream
from erasediff.shards.streaming.order import Order, permutation, random_words
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image


@pytest.fixture(scope="module")
def remain(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return split(digits, tmp_path_factory.mktemp("split") / "three", ["3"])[1]


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    seed=st.integers(-(2**70), 2**70),
    window_shards=st.integers(1, 14),
)
def test_every_sample_once_an_epoch(sizes: list[int], seed: int, window_shards: int) -> None:
    order = Order(sizes, seed=seed, window_shards=window_shards)
    num = sum(sizes)
    for epoch in range(3):
        rows = order.rows(np.arange(epoch * num, (epoch + 1) * num))
        assert sorted(rows.tolist()) == list(range(num))


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    positions=st.lists(st.integers(0, 10**12), min_size=1, max_size=40),
)
def test_order_is_a_function_of_the_position_alone(sizes: list[int], positions: list[int]) -> None:
    together = Order(sizes, seed=5, window_shards=3).rows(np.array(positions)).tolist()
    one_by_one = [Order(sizes, seed=5, window_shards=3).rows(np.array([p])).item() for p in positions]
    assert together == one_by_one


def test_random_words_are_splitmix64() -> None:
    # the published sequence for seed 0 (Vigna's splitmix64.c)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert random_words((), np.arange(4)).tolist() == expected


def splitmix64(value: int) -> int:
    """The output function on Python's own integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


@given(seed=st.lists(st.integers(-(2**65), 2**65), max_size=4), num=st.integers(0, 60))
def test_the_order_is_the_documented_function(seed: list[int], num: int) -> None:
    state = 0
    for word in seed:
        state = splitmix64((state + (word + 1) * 0x9E3779B97F4A7C15) % 2**64)
    words = [splitmix64((state + (i + 1) * 0x9E3779B97F4A7C15) % 2**64) for i in range(num)]
    assert permutation(seed, num).tolist() == sorted(range(num), key=words.__getitem__)


def test_samples_stay_within_a_window_of_shards() -> None:
    shards = Order([10] * 20, seed=1, window_shards=4).rows(np.arange(200)) // 10
    windows = [set(part.tolist()) for part in np.split(shards, 5)]
    assert all(len(window) == 4 for window in windows)
    assert set().union(*windows) == set(range(20))


def test_order_is_spread_evenly() -> None:
    # where sample 0 of 8 lands over 4,000 epochs: chi-squared with 7 degrees of freedom stays under its 99.99 % point
    order = Order([8], seed=3, window_shards=1)
    places = [order.rows(np.arange(e * 8, e * 8 + 8)).tolist().index(0) for e in range(4000)]
    counts = np.bincount(places, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 29.88


def test_seeds_and_epochs_differ(remain: Dataset) -> None:
    first, second = Stream(remain, seed=1, batch_size=1614), Stream(remain, seed=2, batch_size=1614)
    assert first.batch(0).keys != second.batch(0).keys
    assert first.batch(0).keys != first.batch(1).keys
    assert sorted(first.batch(0).keys) == sorted(second.batch(1).keys) == sorted(remain.keys)


@settings(max_examples=40, deadline=None)
@given(batch_size=st.integers(1, 40), b=st.integers(0, 400), world_size=st.sampled_from([1, 2, 3, 8]))
def test_any_world_size_sees_the_same_global_batch(remain: Dataset, batch_size: int, b: int, world_size: int) -> None:
    stream = Stream(remain, seed=7, batch_size=batch_size, window_shards=2)
    whole = stream.batch(b)
    assert whole.positions.tolist() == list(range(b * batch_size, (b + 1) * batch_size))
    assert whole.weights.tolist() == [1] * batch_size
    parts = [stream.batch(b, rank, world_size) for rank in range(world_size)]
    assert {len(part.keys) for part in parts} == {-(-batch_size // world_size)}
    real = [part.weights == 1 for part in parts]
    for field in ("images", "labels", "positions"):
        joined = np.concatenate([getattr(part, field)[mask] for part, mask in zip(parts, real, strict=True)])
        np.testing.assert_array_equal(joined, getattr(whole, field))
    # rows that fill up are copies of a real sample of the batch
    assert all(set(part.keys) <= set(whole.keys) for part in parts)
    assert sum(part.weights.sum() for part in parts) == batch_size


def test_a_batch_holds_the_datasets_pixels(remain: Dataset) -> None:
    batch = Stream(remain, seed=0, batch_size=5).batch(2)
    assert batch.images.shape == (5, 1, 8, 8)
    assert (batch.images.dtype, batch.labels.dtype, batch.weights.dtype) == (np.float32, np.int64, np.float32)
    rows = {key: i for i, key in enumerate(remain.keys)}
    for image, label, key in zip(batch.images, batch.labels, batch.keys, strict=True):
        sample = remain.read(rows[key])
        assert label == sample.label
        np.testing.assert_array_equal(np.rint((image[0].astype(np.float64) + 1) * 127.5), sample.image[:, :, 0])


def test_size_and_channels(pictures: Path, tmp_path: Path) -> None:
    dataset = build(pictures, tmp_path / "pets")
    with pytest.raises(DataError, match="set image_size"):
        Stream(dataset, seed=0, batch_size=2)
    batch = Stream(dataset, seed=0, batch_size=9, image_size=6).batch(0)
    assert batch.images.shape == (9, 3, 6, 6)
    assert batch.images.min() >= -1
    assert batch.images.max() <= 1
    assert Stream(dataset, seed=0, batch_size=2, image_size=6, channels=1).batch(0).images.shape == (2, 1, 6, 6)


def test_options_are_checked(remain: Dataset) -> None:
    valid: dict[str, Any] = {"seed": 0, "batch_size": 4}
    wrong: list[dict[str, Any]] = [
        {"batch_size": 0},
        {"image_size": 0},
        {"channels": 2},
        {"window_shards": 0},
        {"dtype": "float16"},
    ]
    for bad in wrong:
        with pytest.raises(DataError, match=next(iter(bad))):
            Stream(remain, **(valid | bad))
    with pytest.raises(ValueError, match="rank 2 of 2"):
        Stream(remain, seed=0, batch_size=4).batch(0, rank=2, world_size=2)


def test_a_shard_truncated_while_open_is_named(pictures: Path, tmp_path: Path) -> None:
    dataset = build(pictures, tmp_path / "pets", name="pets")
    stream = Stream(dataset, seed=0, batch_size=9, image_size=4)
    (dataset.path / "pets-000000.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"pets-000000\.tar: truncated"):
        stream.batch(0)


def test_small_shards_mix_as_far_as_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tars that others wrote may have a class each: a run must not see those of sixteen tars alone."""
    (tmp_path / "tars").mkdir()
    for label in range(40):
        with tarfile.open(tmp_path / "tars" / f"{label:02d}.tar", "w") as tar:
            for i in range(3):
                buffer = io.BytesIO()
                Image.fromarray(np.full((2, 2), label * 3 + i, np.uint8)).save(buffer, "PNG")
                for extension, data in (("png", buffer.getvalue()), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{label}-{i}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    data = build(tmp_path / "tars", tmp_path / "data")
    seen = Stream(data, seed=0, batch_size=60).batch(0).labels
    assert len(set(seen.tolist())) > 30
    # of large shards 16 are enough to mix
    monkeypatch.setattr(stream, "WINDOW_SAMPLES", 30)
    seen = Stream(data, seed=0, batch_size=48).batch(0).labels
    assert len(set(seen.tolist())) == 16
