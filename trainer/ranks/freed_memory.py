"""What becomes of memory that a step frees: it stays with the process for the next step, on a CPU as on a GPU."""

from __future__ import annotations

import ctypes
import gc
import os

import torch

# of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# whoever sets one of these has chosen how memory is kept; the others count by what they name
CHOSEN = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
NAMED = {"GLIBC_TUNABLES": ("glibc.malloc.",), "LD_PRELOAD": ("malloc", "hoard", "tbb")}


def keep() -> None:
    """From now on the C library gives nothing back to the kernel by itself, which hands out every page zeroed.

    By its own rules a piece of more than 32 MB goes back as soon as it is freed: a gradient as long as the weights was
    paid for page by page in each iteration (docs/decisions/engine.md has the seconds, and what it costs in memory). Of
    the main thread: others have heaps of their own. A C library that is not glibc stays as it is, and so does one that
    the environment tells how to keep memory, or that another allocator stands before.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not _is_chosen():
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def _is_chosen() -> bool:
    told = ((os.environ.get(name, ""), words) for name, words in NAMED.items())
    return any(name in os.environ for name in CHOSEN) or any(word in text for text, words in told for word in words)


def give_back(device: torch.device) -> None:
    """What nothing uses any more goes back: where a model ends, so that the next finds as much room as the first."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
