"""The process group comes up, adds up right, and how much it moves: bus bandwidth as nccl-tests defines it."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...trainer.ranks.collectives import device_index, is_on_cuda
from .check import Check, Seen
from .config import DoctorConfig
from .finding import Finding
from .peers import Peers

# bytes of the whole vector
_SIZES = {"nccl": (1 << 20, 1 << 25, 1 << 29), "gloo": (1 << 16, 1 << 20, 1 << 24)}
_SECONDS_A_SIZE = 0.2
_ADVICE = (
    "name the network's interface in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME (ip -br addr lists them), "
    "NCCL_DEBUG=INFO says more"
)


def _look(peers: Peers, config: DoctorConfig) -> dict[str, Any]:
    on_cuda = is_on_cuda(config.engine)
    backend, device = "gloo", torch.device("cpu")
    if on_cuda:
        index = device_index(os.environ.get("LOCAL_RANK"), torch.cuda.device_count(), peers.world_size)
        backend, device = "nccl", torch.device("cuda", index)
    joined_before = dist.is_initialized()
    if not joined_before:
        dist.init_process_group(
            backend,
            store=peers.own_store(),
            rank=peers.rank,
            world_size=peers.world_size,
            timeout=timedelta(seconds=peers.limit_seconds),
            device_id=device if on_cuda else None,
        )
    try:
        with warnings.catch_warnings():
            # newer torch names two of them anew, older has the old names only
            warnings.simplefilter("ignore", FutureWarning)
            rates = {name: [_rate(name, size, device) for size in _SIZES[backend]] for name in _COLLECTIVES}
    finally:
        if not joined_before:
            dist.destroy_process_group()
    return {"backend": backend, "rates": rates}


def _all_reduce(vector: Tensor, part: Tensor) -> Tensor:
    dist.all_reduce(vector)
    return vector


def _all_gather(vector: Tensor, part: Tensor) -> Tensor:
    dist.all_gather_into_tensor(vector, part)
    return vector


def _reduce_scatter(vector: Tensor, part: Tensor) -> Tensor:
    dist.reduce_scatter_tensor(part, vector)
    return part


# which of them, and what the wires carry of each byte of the vector, for n ranks
_COLLECTIVES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[int], float]]] = {
    "all-reduce": (_all_reduce, lambda n: 2 * (n - 1) / n),
    "all-gather": (_all_gather, lambda n: (n - 1) / n),
    "reduce-scatter": (_reduce_scatter, lambda n: (n - 1) / n),
}


def _rate(name: str, num_bytes: int, device: torch.device) -> float:
    """Bus bandwidth in bytes a second; the time is the mean over repetitions, then over ranks.

    Raises RuntimeError where the result is wrong.
    """
    collective, factor = _COLLECTIVES[name]
    n, rank = dist.get_world_size(), dist.get_rank()
    part_numel = max(1, num_bytes // 4 // n)
    vector, part = torch.empty(part_numel * n, device=device), torch.empty(part_numel, device=device)

    def timed(repetitions: int) -> Tensor:
        vector.zero_()
        _wait(device)
        dist.barrier()
        start = time.perf_counter()
        for _ in range(repetitions):
            collective(vector, part)
        _wait(device)
        return torch.tensor((time.perf_counter() - start) / repetitions, dtype=torch.float64, device=device)

    vector.fill_(rank + 1)
    part.fill_(rank + 1)
    result = collective(vector, part)
    total = n * (n + 1) / 2
    expected = torch.arange(1, n + 1, device=device).repeat_interleave(part_numel) if name == "all-gather" else total
    if not bool((result == expected).all()):
        raise RuntimeError(f"{name} of {num_bytes:,} bytes gives a wrong result: the network or a device is broken")
    once = timed(1)
    dist.all_reduce(once, dist.ReduceOp.MAX)
    seconds = timed(min(20, max(1, int(_SECONDS_A_SIZE / float(once)))))
    dist.all_reduce(seconds)
    return vector.numel() * 4 / float(seconds / n) * factor(n)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _judge(seen: Seen) -> list[Finding]:
    first = seen.values[0]
    backend, num_ranks = first["backend"], len(seen.values)
    if num_ranks == 1:
        return [Finding("ok", "network", f"{backend} starts; one rank has nothing to send")]
    sizes = [f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB" for size in _SIZES[backend]]
    findings = []
    for name, rates in first["rates"].items():
        shown = ", ".join(f"{rate / 1e9:.2f} at {size}" for rate, size in zip(rates, sizes, strict=True))
        findings.append(Finding("ok", name, f"bus bandwidth in GB/s: {shown} ({backend}, {num_ranks} ranks)"))
    return findings


CHECK = Check("network", _look, _judge, _ADVICE, is_joint=True)
