"""The nearest samples of another dataset against scikit-learn's search, whatever the blocks; and their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import DataError, Dataset, Stream
from erasediff.shards.streaming import neighbours
from erasediff.shards.streaming.neighbours import nearest_rows, neighbours_path, open_neighbours, write_neighbours
from erasediff.shards.streaming.rows import Rows
from sklearn.neighbors import NearestNeighbors


@pytest.fixture(scope="module")
def sets(digits: Dataset) -> tuple[Rows, Rows]:
    """Some 3s and 5s, and the other digits."""
    chosen = np.isin(digits.labels, (3, 5)) & (np.arange(len(digits)) < 300)
    return rows(digits.only(chosen)), rows(digits.only(~chosen))


def rows(data: Dataset, image_size: int = 8, channels: int = 1) -> Rows:
    return Rows(data, image_size=image_size, channels=channels, latents=False)


def points(side: Rows) -> np.ndarray:
    """By reading each sample alone."""
    return np.stack([side.dataset.read(i).image.astype(np.float64).ravel() for i in range(len(side.dataset))])


def one_group(side: Rows) -> np.ndarray:
    return np.zeros(len(side.dataset), np.int64)


def labels(side: Rows) -> np.ndarray:
    return side.dataset.labels


def test_rows_are_read_in_the_order_asked_for(digits: Dataset) -> None:
    found = rows(digits).read(np.array([1500, 3, 3, 700]))
    assert np.array_equal(found[:, 0], [digits.read(i).image[..., 0] for i in (1500, 3, 3, 700)])
    small = rows(digits, image_size=4, channels=3).read(np.array([7]))
    stream = Stream(digits, seed=0, batch_size=len(digits), image_size=4, channels=3, dtype="uint8").batch(0)
    assert np.array_equal(small[0], stream.images[stream.keys.index(digits.key(7))])


@pytest.mark.parametrize("block", [2048, 50, 7])
def test_neighbours_are_those_of_an_exhaustive_search(
    sets: tuple[Rows, Rows], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(neighbours, "_MAX_BLOCK", block)
    asked, others = sets
    mine = np.arange(1, len(asked.dataset), 2)
    found = nearest_rows(mine, asked, others, 10, one_group(asked), one_group(others))
    distances, _ = (
        NearestNeighbors(n_neighbors=10, algorithm="brute").fit(points(others)).kneighbors(points(asked)[mine])
    )
    apart = np.linalg.norm(points(asked)[mine][:, None] - points(others)[found], axis=2)
    assert np.allclose(apart, distances, rtol=1e-9)
    assert all(len({*row}) == 10 for row in found.tolist())


@pytest.mark.parametrize("block", [2048, 50])
def test_of_equally_near_ones_that_of_the_lower_row_comes_first(
    sets: tuple[Rows, Rows], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """As of pictures of one pixel most are."""
    monkeypatch.setattr(neighbours, "_MAX_BLOCK", block)
    asked, others = (rows(side.dataset, image_size=1) for side in sets)
    every = np.arange(len(asked.dataset))
    found = nearest_rows(every, asked, others, 40, one_group(asked), one_group(others))
    values = [side.read(np.arange(len(side.dataset))).astype(np.int64).ravel() for side in (asked, others)]
    apart = np.abs(values[0][:, None] - values[1])
    expected = np.array([sorted(range(apart.shape[1]), key=lambda j: (apart[i, j], j))[:40] for i in every])
    assert np.array_equal(found, expected)
    assert (np.diff(np.take_along_axis(apart, expected, 1)) == 0).sum() > 100


def test_neighbours_are_of_the_samples_group_where_there_are_enough(sets: tuple[Rows, Rows]) -> None:
    asked, others = sets
    kinds = np.where(labels(others) == 5, 10, labels(others))  # none of the 5s' kind remains
    found = nearest_rows(np.arange(len(asked.dataset)), asked, others, 10, labels(asked), kinds)
    theirs = labels(others)[found]
    threes, fives = theirs[labels(asked) == 3], theirs[labels(asked) == 5]
    assert (threes == 3).all() and len(threes) > 5
    everywhere = nearest_rows(np.arange(len(asked.dataset)), asked, others, 10, one_group(asked), one_group(others))
    assert np.array_equal(fives, labels(others)[everywhere][labels(asked) == 5]) and len(fives) > 5
    # as many as there are, and one more
    kinds = np.full(len(labels(others)), 9)
    kinds[:10] = 3
    for count, expected in ((10, {*range(10)}), (11, None)):
        (row,) = nearest_rows(np.array([0]), asked, others, count, np.full(len(labels(asked)), 3), kinds).tolist()
        assert ({*row} == expected) if expected else (max(row) >= 10)


def test_nothing_is_asked_of_a_rank_without_samples(sets: tuple[Rows, Rows]) -> None:
    asked, others = sets
    assert nearest_rows(np.arange(0), asked, others, 3, one_group(asked), one_group(others)).shape == (0, 3)


def test_the_file_is_of_these_samples_alone(sets: tuple[Rows, Rows], tmp_path: Path, digits: Dataset) -> None:
    asked, others = sets
    groups = one_group(asked), one_group(others)
    path = neighbours_path(tmp_path, asked, others, 2, *groups)
    assert path == neighbours_path(tmp_path, asked, others, 2, *groups)
    whole, smaller = rows(digits), [rows(side.dataset, image_size=4) for side in sets]
    told = groups[0].copy()
    told[3] = 1
    others_told = groups[1].copy()
    others_told[3] = 1
    different = [
        neighbours_path(tmp_path, asked, others, 3, *groups),
        neighbours_path(tmp_path, asked, whole, 2, groups[0], one_group(whole)),
        neighbours_path(tmp_path, whole, others, 2, one_group(whole), groups[1]),
        neighbours_path(tmp_path, smaller[0], smaller[1], 2, *groups),
        neighbours_path(tmp_path, asked, others, 2, told, groups[1]),
        neighbours_path(tmp_path, asked, others, 2, groups[0], others_told),
    ]
    assert len({path, *different}) == 7


def test_a_damaged_file_is_told_from_a_whole_one(tmp_path: Path) -> None:
    path, given = tmp_path / "n.npy", np.array([[4, 0], [1, 3], [2, 2]])
    write_neighbours(path, given)
    assert [*tmp_path.iterdir()] == [path]
    found = open_neighbours(path, 3, 5)
    assert np.array_equal(found, given) and isinstance(found, np.memmap) and not found.flags.writeable
    for num_asked, num_others in ((2, 5), (3, 4)):
        with pytest.raises(DataError, match="damaged: remove it"):
            open_neighbours(path, num_asked, num_others)
    (tmp_path / "short.npy").write_bytes(path.read_bytes()[:-8])
    write_neighbours(tmp_path / "negative.npy", given - 1)
    np.save(tmp_path / "other.npy", given.astype(np.float64))
    for name in ("short", "negative", "other"):
        with pytest.raises(DataError, match=f"{name}.npy: damaged: remove it"):
            open_neighbours(tmp_path / f"{name}.npy", 3, 5)
