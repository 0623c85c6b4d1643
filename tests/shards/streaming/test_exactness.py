"""The promise of the stream: one sequence, whatever the ranks, workers, stops and restarts."""

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import Dataset, Prefetch, SampleBatch, Stream, split
from erasediff.shards.streaming.mixture import BLOCK_SLOTS, Mixture
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


@given(weights=st.lists(st.floats(0.001, 1000), min_size=2, max_size=6), block=st.integers(0, 10**9))
def test_a_mixture_keeps_its_shares_and_counts_each_source_on(weights: list[float], block: int) -> None:
    mixture = Mixture(weights, seed=4)
    start = block * BLOCK_SLOTS
    sources, local = mixture.locate(np.arange(start, start + BLOCK_SLOTS))
    counts = np.bincount(sources, minlength=len(weights))
    shares = np.array(weights) / sum(weights)
    assert counts.sum() == BLOCK_SLOTS
    assert counts.min() >= 1
    # whole slots, and a rare source may take one from the most frequent
    assert (np.abs(counts - shares * BLOCK_SLOTS) <= len(weights)).all()
    for source, count in enumerate(counts.tolist()):
        assert local[sources == source].tolist() == list(range(block * count, (block + 1) * count))


def test_two_sources_with_weights(sets: tuple[Dataset, Dataset]) -> None:
    forget, remain = sets
    stream = Stream([forget, remain], weights=[1, 1], seed=0, batch_size=512)
    batches = [stream.batch(b) for b in range(8)]
    for even, odd in zip(batches[::2], batches[1::2], strict=True):
        labels = np.concatenate([even.labels, odd.labels])
        assert np.count_nonzero(labels == 3) == 512
    # the small source comes round evenly, epoch after epoch
    keys = [key for batch in batches for key, label in zip(batch.keys, batch.labels, strict=True) if label == 3]
    assert sorted(keys[: len(forget)]) == sorted(keys[len(forget) : 2 * len(forget)]) == sorted(forget.keys)
    assert sorted(set(batches[0].keys)) != sorted(set(batches[1].keys))


def test_without_weights_sources_are_in_proportion(sets: tuple[Dataset, Dataset]) -> None:
    labels = Stream(list(sets), seed=0, batch_size=1024).batch(3).labels
    assert abs(np.count_nonzero(labels == 3) - 1024 * 183 / 1797) <= 1


@pytest.mark.parametrize("world_size", WORLDS)
def test_mixtures_do_not_depend_on_the_world(sets: tuple[Dataset, Dataset], world_size: int) -> None:
    stream = Stream(list(sets), weights=[0.3, 0.7], seed=3, batch_size=37)
    for b in (0, 27, 28):
        parts = [stream.batch(b, rank, world_size) for rank in range(world_size)]
        assert real_keys(parts) == list(stream.batch(b).keys)
