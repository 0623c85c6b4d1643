"""Memory that is not there: how it shows, and a bound on it that all ranks meet at once."""

from __future__ import annotations

import torch

from ..ranks import collectives

_WORDS = ("defaultcpuallocator", "out of memory", "alloc_failed", "cublas_status_not_initialized")
# left to what allocates beside torch: cuBLAS, cuDNN, NCCL
_RESERVE_BYTES = 1.5e9


def is_short(error: BaseException) -> bool:
    """Whether it is torch's, Python's or a CUDA library's word for memory that is not there."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in said for word in _WORDS)


def bound_alike(device: torch.device) -> None:
    """On CUDA: no rank may allocate more than the fullest device has room for. All ranks call it.

    So a combination that is too large ends on every rank at the same allocation, and none waits for another.
    """
    if device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(device)
    shares = collectives.gather(max(0.0, free + torch.cuda.memory_reserved(device) - _RESERVE_BYTES) / total)
    torch.cuda.set_per_process_memory_fraction(min(1.0, *shares), device)
