"""Which of several sources a position of the infinite sequence draws from: a pure function of (seed, position)."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..errors import DataError
from .order import permutation

BLOCK_SLOTS = 1024
_SALT = 0x6D6978


class Mixture:
    """Sources in fixed proportions: of every 1,024 positions each gets its share, rounded to 1/1024, in a random order.

    So the number of earlier positions that drew from a source is known without counting them.
    """

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        self._seed = seed
        self.slots = _slots(weights)
        self._pattern = np.repeat(np.arange(len(self.slots)), self.slots)
        self._block = lru_cache(maxsize=4)(self._make_block)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each position (int64 [n]) the number of its source, and the position in that source's own sequence."""
        if len(self.slots) == 1:
            return np.zeros_like(positions), positions
        blocks, within = np.divmod(positions, BLOCK_SLOTS)
        sources, local = np.empty_like(positions), np.empty_like(positions)
        for block in set(blocks.tolist()):
            here = np.flatnonzero(blocks == block)
            chosen, ranks = self._block(block)
            sources[here] = chosen[within[here]]
            local[here] = block * self.slots[sources[here]] + ranks[within[here]]
        return sources, local

    def _make_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The source of each slot, and how many slots before it in the block have the same."""
        chosen = self._pattern[permutation((self._seed, _SALT, block), BLOCK_SLOTS)]
        ranks = np.empty(BLOCK_SLOTS, dtype=np.int64)
        for source, num in enumerate(self.slots.tolist()):
            ranks[chosen == source] = np.arange(num)
        return chosen, ranks


def _slots(weights: Sequence[float]) -> np.ndarray:
    """Weights as whole slots of a block, by largest remainder; at least one each."""
    if not all(math.isfinite(weight) and weight > 0 for weight in weights) or len(weights) > BLOCK_SLOTS // 2:
        raise DataError(f"weights: {list(weights)}; expected positive numbers, one for each source")
    exact = np.array(weights, dtype=np.float64) / math.fsum(weights) * BLOCK_SLOTS
    slots = np.maximum(np.floor(exact), 1).astype(np.int64)
    # ties go to the first, so that every process rounds alike
    for source in np.argsort(slots - exact, kind="stable")[: max(BLOCK_SLOTS - slots.sum(), 0)]:
        slots[source] += 1
    slots[np.argmax(slots)] -= slots.sum() - BLOCK_SLOTS
    return slots
