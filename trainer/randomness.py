"""Random numbers as a pure function of (seed, purpose, index): the same on every rank, device and restart."""

from __future__ import annotations

import zlib

import numpy as np


def sample_generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    """The generator of one sample: Philox keyed by (seed, purpose), its counter starting at the sample's index.

    `index` counts samples over the whole run, whatever rank or worker they fall to.
    """
    key = np.array([seed, zlib.crc32(purpose.encode())], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index]))
