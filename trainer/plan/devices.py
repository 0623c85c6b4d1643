"""What a rank computes on: a small table. No torch here.

Peaks are dense ones, from NVIDIA's data sheets of the SXM modules ("A100 Tensor Core GPU", and so on). Memory is what
the name says, in powers of ten; a driver shows some more.

Bus bandwidth is nccl-tests' (`doc/PERFORMANCE.md`): what a rank sends over the time it takes. Between the GPUs of an
A100 node about 200 GB/s of NVLink's 300 are reported (nccl-tests issue 149), and 96 of 100 GB/s of a network of 4 × 200
Gb/s (issue 119). For the others the same two shares are taken of 450 GB/s, and of 8 × 400 Gb/s: estimates.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Literal

GpuType = Literal["a100-40gb", "a100-80gb", "h100-80gb", "h200-141gb", "cpu"]

# dense operations a second by a part of the name that torch gives a device, the longer names first: bf16 and TF32 on
# tensor cores, fp32
PEAKS: dict[str, dict[str, float]] = {
    "A100": {"bf16": 312e12, "tf32": 156e12, "fp32": 19.5e12},
    "H100 PCIe": {"bf16": 756e12, "tf32": 378e12, "fp32": 51e12},
    "H100 NVL": {"bf16": 835e12, "tf32": 417e12, "fp32": 60e12},
    "H100": {"bf16": 989e12, "tf32": 494e12, "fp32": 67e12},
    "H200": {"bf16": 989e12, "tf32": 494e12, "fp32": 67e12},
}
_OF_NVLINK, _OF_NETWORK = 2 / 3, 0.96
# a core's fp32 operations a second: two fused multiply-adds on 8 numbers (AVX2) at 2.5 GHz
_CORE_FLOPS = 2 * 2 * 8 * 2.5e9


@dataclass(frozen=True)
class Device:
    """One rank's; rates are a second's."""

    name: str
    memory_bytes: float
    memory_bandwidth: float  # bytes
    bf16_flops: float
    tf32_flops: float
    fp32_flops: float
    num_per_node: int
    node_bandwidth: float  # bytes that a rank sends to others of its node
    network_bandwidth: float  # the same where ranks of several nodes take part
    reserve_bytes: float
    """What the driver, libraries and the network's buffers hold: an estimate."""
    is_cpu: bool = False

    def bus_bandwidth(self, num_ranks: int) -> float:
        """Bytes a second that each of so many ranks sends in a reduce-scatter or all-gather."""
        if num_ranks <= self.num_per_node:
            return self.node_bandwidth
        return min(self.node_bandwidth, self.network_bandwidth)


def _sxm(name: str, gigabytes: float, bandwidth: float, *, is_ampere: bool) -> Device:
    peaks = PEAKS["A100" if is_ampere else "H100"]
    nvlink, network = (300e9, 8 * 25e9) if is_ampere else (450e9, 8 * 50e9)
    return Device(
        name,
        memory_bytes=gigabytes * 1e9,
        memory_bandwidth=bandwidth,
        bf16_flops=peaks["bf16"],
        tf32_flops=peaks["tf32"],
        fp32_flops=peaks["fp32"],
        num_per_node=8,
        node_bandwidth=_OF_NVLINK * nvlink,
        network_bandwidth=_OF_NETWORK * network,
        # CUDA's context and kernels 0.5 to 1 GB, cuBLAS, cuDNN and NCCL's buffers as much again
        reserve_bytes=1.5e9,
    )


_TABLE = {
    "a100-40gb": _sxm("a100-40gb", 40, 1555e9, is_ampere=True),
    "a100-80gb": _sxm("a100-80gb", 80, 2039e9, is_ampere=True),
    "h100-80gb": _sxm("h100-80gb", 80, 3350e9, is_ampere=False),
    "h200-141gb": _sxm("h200-141gb", 141, 4800e9, is_ampere=False),
}


def device_of(kind: GpuType, num_ranks: int, num_per_node: int | None = None) -> Device:
    """num_per_node: in place of the table's 8; its network is taken to be as much less.

    "cpu": ranks that share this machine's cores and memory.
    """
    if kind == "cpu":
        return _this_machine(num_per_node or num_ranks)
    device = _TABLE[kind]
    if num_per_node is None:
        return device
    share = num_per_node / device.num_per_node
    return replace(device, num_per_node=num_per_node, network_bandwidth=device.network_bandwidth * share)


def _this_machine(num_ranks: int) -> Device:
    flops = _CORE_FLOPS * (os.cpu_count() or 1) / num_ranks
    return Device(
        "cpu",
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / num_ranks,
        memory_bandwidth=10e9 / num_ranks,
        bf16_flops=flops,
        tf32_flops=flops,
        fp32_flops=flops,
        num_per_node=num_ranks,
        node_bandwidth=1e9,
        network_bandwidth=1e9,
        # Python with torch and diffusers, and DeepSpeed at stage 3
        reserve_bytes=1e9,
        is_cpu=True,
    )
