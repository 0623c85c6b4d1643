"""The most memory that a stretch of work takes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

_SELF = Path("/proc/self")


def reset_peak(device: torch.device) -> None:
    """The stretch begins here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # a kernel without it: the peak is the process's, then
        (_SELF / "clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Since the reset: on CUDA what tensors took, on a CPU what of this process was resident, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = (_SELF / "status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
