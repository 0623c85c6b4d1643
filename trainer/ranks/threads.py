"""The threads of a rank: those of the passes have the cores of a CPU, what works beside them has one."""

from __future__ import annotations

import ctypes

import torch


def compute_alone() -> None:
    """From now on the calling thread's arithmetic is done by it alone, on a CPU.

    Else OpenMP gives it as many threads of its own as the passes have, and where there are more than cores, all of them
    fall asleep between two operations, the passes' as well, instead of waiting for the next.
    """
    torch.get_num_threads()  # torch sets a thread's number at its first use, and not again
    linked = ctypes.CDLL(torch._C.__file__)  # with all that it is linked to
    for name in ("omp_set_num_threads", "MKL_Set_Num_Threads_Local"):
        if set_own := getattr(linked, name, None):
            set_own(1)
