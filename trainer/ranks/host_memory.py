"""What a step frees stays with its process, for the next step: on a CPU, where nothing caches memory as on a GPU."""

from __future__ import annotations

import ctypes
import os

# of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# whoever sets one of these has chosen how memory is kept
CHOSEN = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed() -> None:
    """From now on the C library gives nothing back to the kernel, which hands out every page of it zeroed.

    By its own rules a piece of more than 32 MB goes back as soon as it is freed: a gradient as long as the weights was
    paid for page by page in each iteration (docs/decisions/engine.md has the seconds). A C library that is not glibc
    stays as it is, and so does one that the environment tells how to keep memory.
    """
    if any(name in os.environ for name in CHOSEN):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
