"""The promise of the stream: one sequence, whatever the ranks, workers, stops and restarts."""

import itertools
from functools import partial
from pathlib import Path

import pytest
from erasediff.shards import Dataset, Prefetch, SampleBatch, Stream, split
from hypothesis import given, settings
from hypothesis import strategies as st

WORLDS = (1, 2, 3, 8)


@pytest.fixture(scope="module")
def sets(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    return split(digits, tmp_path_factory.mktemp("sets") / "three", ["3"])


def real_keys(batches: list[SampleBatch]) -> list[str]:
    """Keys of one global batch from its ranks' parts, without rows that only fill up."""
    return [key for part in batches for key, weight in zip(part.keys, part.weights, strict=True) if weight]


def read_batches(remain: Path, start: int, stop: int, world_size: int, num_workers: int, batch_size: int) -> list[str]:
    """What `world_size` fresh ranks read, batch after batch, each with its own workers."""
    ranks = [
        Prefetch(
            partial(
                Stream(Dataset.open(remain), seed=11, batch_size=batch_size, window_shards=3).batch,
                rank=rank,
                world_size=world_size,
            ),
            start=start,
            num_workers=num_workers,
        )
        for rank in range(world_size)
    ]
    keys = []
    for b in range(start, stop):
        parts = [next(rank) for rank in ranks]
        assert {number for number, _ in parts} == {b}
        keys += real_keys([part for _, part in parts])
    for rank in ranks:
        rank.close()
    return keys


@settings(max_examples=25, deadline=None)
@given(
    first_world=st.sampled_from(WORLDS),
    second_world=st.sampled_from(WORLDS),
    first_workers=st.sampled_from([0, 2, 4]),
    second_workers=st.sampled_from([0, 2, 4]),
    batch_size=st.integers(1, 50),
    start=st.integers(0, 200),
    stop_after=st.integers(0, 6),
)
def test_stop_anywhere_and_resume_on_another_world(
    sets: tuple[Dataset, Dataset],
    first_world: int,
    second_world: int,
    first_workers: int,
    second_workers: int,
    batch_size: int,
    start: int,
    stop_after: int,
) -> None:
    _, remain = sets
    middle, end = start + stop_after, start + 6
    resumed = read_batches(remain.path, start, middle, first_world, first_workers, batch_size)
    resumed += read_batches(remain.path, middle, end, second_world, second_workers, batch_size)
    # one rank, no workers, one sample a batch: an independent way through the same positions
    single = Stream(remain, seed=11, batch_size=1, window_shards=3)
    expected = [single.batch(position).keys[0] for position in range(start * batch_size, end * batch_size)]
    assert resumed == expected


@pytest.mark.slow
@pytest.mark.parametrize("first_world", WORLDS)
@pytest.mark.parametrize("second_world", WORLDS)
def test_every_pair_of_worlds_and_workers_and_every_stop(
    sets: tuple[Dataset, Dataset], first_world: int, second_world: int
) -> None:
    _, remain = sets
    # 41 batches of 45 are more than an epoch of 1,614
    num_batches, batch_size = 41, 45
    single = Stream(remain, seed=11, batch_size=1, window_shards=3)
    expected = [single.batch(position).keys[0] for position in range(num_batches * batch_size)]
    for first_workers, second_workers in itertools.product((0, 2, 4), repeat=2):
        for stop in range(0, num_batches + 1, 13 if first_workers or second_workers else 3):
            keys = read_batches(remain.path, 0, stop, first_world, first_workers, batch_size)
            keys += read_batches(remain.path, stop, num_batches, second_world, second_workers, batch_size)
            assert keys == expected


@settings(max_examples=10, deadline=None)
@given(
    labels=st.sets(st.sampled_from("0123456789"), min_size=1, max_size=9),
    world_size=st.sampled_from(WORLDS),
    batch_size=st.integers(200, 700),
    seed=st.integers(0, 2**63),
)
def test_every_remaining_sample_once_an_epoch_and_no_excluded_one_ever(
    digits: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
    labels: set[str],
    world_size: int,
    batch_size: int,
    seed: int,
) -> None:
    _, remain = split(digits, tmp_path_factory.mktemp("split") / "out", sorted(labels))
    excluded = {key for key, label in zip(digits.keys, digits.labels, strict=True) if str(label) in labels}
    stream = Stream(remain, seed=seed, batch_size=batch_size)
    num_batches = -(-2 * len(remain) // batch_size)
    keys = [
        key
        for b in range(num_batches)
        for key in real_keys([stream.batch(b, rank, world_size) for rank in range(world_size)])
    ]
    for epoch in range(2):
        assert sorted(keys[epoch * len(remain) : (epoch + 1) * len(remain)]) == sorted(remain.keys)
    assert not excluded & set(keys)
