"""One device a rank, and the one that its launcher means."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ...trainer.ranks.collectives import check_device, device_index, is_on_cuda
from .check import Check, Seen
from .config import DoctorConfig
from .finding import Finding
from .peers import Peers

_DRIVER = Path("/dev/nvidiactl")


def _look(peers: Peers, config: DoctorConfig) -> dict[str, Any]:
    """Where the run computes on CUDA, computes there."""
    check_device(config.engine)
    if not is_on_cuda(config.engine):
        unused = config.engine.device == "auto" and _DRIVER.exists()
        return {"uuid": None, "has_driver": unused, "cores": len(os.sched_getaffinity(0))}
    num_visible = torch.cuda.device_count()
    index = device_index(os.environ.get("LOCAL_RANK"), num_visible, peers.world_size)
    properties = torch.cuda.get_device_properties(index)
    ones = torch.ones(1 << 20, device=torch.device("cuda", index))
    total = int(ones.sum())
    if total != 1 << 20:
        raise RuntimeError(f"device {index} adds {1 << 20} ones up to {total}: it is broken")
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    return {
        "uuid": str(properties.uuid),
        "name": properties.name,
        "index": index,
        "num_visible": num_visible,
        "free_bytes": free_bytes,
        "total_bytes": total_bytes,
    }


def _judge(seen: Seen) -> list[Finding]:
    with_device = {rank: value for rank, value in seen.values.items() if value["uuid"] is not None}
    without = [rank for rank in seen.values if rank not in with_device]
    if with_device and without:
        found = f"{seen.peers.name(*without)}: torch sees no CUDA device, and the other ranks have one"
        return [Finding("failed", "devices", found, "give every rank a GPU, or set engine.device = 'cpu'")]
    if without:
        driven = [rank for rank in without if seen.values[rank]["has_driver"]]
        if driven:
            found = f"{seen.peers.name(*driven)}: there is a GPU driver, and torch {torch.__version__} sees no device"
            return [Finding("warning", "devices", found, "the run would compute on the CPU: install a CUDA build")]
        cores = ", ".join(str(count) for count in sorted({value["cores"] for value in seen.by_host().values()}))
        return [Finding("ok", "devices", f"no GPU is used; CPU cores of a host: {cores}")]
    taken = Counter((seen.peers.hosts[rank], value["uuid"]) for rank, value in with_device.items())
    (host, uuid), ranks = taken.most_common(1)[0]
    if ranks > 1:
        same = [rank for rank, value in with_device.items() if (seen.peers.hosts[rank], value["uuid"]) == (host, uuid)]
        found = f"{seen.peers.name(*same)} have the same device, {uuid}"
        return [Finding("failed", "devices", found, "start at most one rank for each device, and set LOCAL_RANK")]
    kinds = Counter(f"{value['name']} ({value['total_bytes'] / 1e9:.0f} GB)" for value in with_device.values())
    shown = ", ".join(f"{count} × {name}" for name, count in kinds.items())
    if len(kinds) > 1:
        return [Finding("warning", "devices", f"{shown}: every step waits for the slowest", "ask for one kind of node")]
    used = [rank for rank, value in with_device.items() if value["free_bytes"] < 0.8 * value["total_bytes"]]
    if used:
        found = f"{shown}; memory of {seen.peers.name(*used)} is in use already"
        return [Finding("warning", "devices", found, "see what runs there: nvidia-smi")]
    return [Finding("ok", "devices", f"{shown}, one a rank, as LOCAL_RANK says")]


CHECK = Check("devices", _look, _judge)
