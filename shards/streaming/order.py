"""Which sample comes at which position: a pure function of (seed, position), in memory bounded by one window."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_CACHED_WINDOWS = 4


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's output function (Steele, Lea, Flood 2014), uint64; numpy's generators may change, this may not."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def random_words(seed: Sequence[int], numbers: np.ndarray) -> np.ndarray:
    """uint64, one for each of `numbers` (int64), a function of the whole `seed` and that number alone."""
    state = np.zeros(1, dtype=np.uint64)
    for word in seed:
        state = mix(state + np.uint64((word * _GOLDEN + _GOLDEN) & _MASK))
    return mix(state + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))


def permutation(seed: Sequence[int], num: int) -> np.ndarray:
    """A permutation of `range(num)`, int64."""
    return np.argsort(random_words(seed, np.arange(num)), kind="stable")


class Order:
    """The infinite sequence of samples: in each epoch every sample once, shards permuted, then samples within a window.

    `shard_sizes` are samples per shard; rows are numbered shard after shard. Samples mix only within `window_shards`
    shards that follow one another in the epoch's order, so reads stay in a few files and memory is bounded by a window.
    """

    def __init__(self, shard_sizes: Sequence[int], *, seed: int, window_shards: int) -> None:
        self._sizes = np.asarray(shard_sizes, dtype=np.int64)
        self._first_rows = np.cumsum(self._sizes) - self._sizes
        self._seed = seed
        self._window_shards = window_shards
        self.num_samples = int(self._sizes.sum())
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._window = lru_cache(maxsize=_CACHED_WINDOWS)(self._make_window)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Rows (int64 [n]) of samples at `positions` (int64 [n], any order, from 0 up without end)."""
        epochs, within = np.divmod(positions, self.num_samples)
        rows = np.empty_like(positions)
        for epoch in set(epochs.tolist()):
            here = np.flatnonzero(epochs == epoch)
            rows[here] = self._rows_in_epoch(epoch, within[here])
        return rows

    def _rows_in_epoch(self, epoch: int, within: np.ndarray) -> np.ndarray:
        _, window_starts = self._epoch(epoch)
        windows = np.searchsorted(window_starts, within, side="right") - 1
        rows = np.empty_like(within)
        for window in set(windows.tolist()):
            here = windows == window
            rows[here] = self._window(epoch, window)[within[here] - window_starts[window]]
        return rows

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of shards, and the position within the epoch at which each window starts."""
        shards = permutation((self._seed, epoch), len(self._sizes))
        ends = np.cumsum(self._sizes[shards])
        last_shards = np.arange(self._window_shards, len(shards), self._window_shards) - 1
        return shards, np.concatenate(([0], ends[last_shards]))

    def _make_window(self, epoch: int, window: int) -> np.ndarray:
        """Rows of a window, permuted."""
        shards, _ = self._epoch(epoch)
        chosen = shards[window * self._window_shards : (window + 1) * self._window_shards]
        rows = np.concatenate(
            [np.arange(num) + first for num, first in zip(self._sizes[chosen], self._first_rows[chosen], strict=True)]
        )
        return rows[permutation((self._seed, epoch, window), len(rows))]
