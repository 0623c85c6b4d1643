"""The same versions on every rank, and a Triton that fits torch."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from ...kernels.versions import TRITON_OF_TORCH
from ...trainer.run.provenance import versions
from .check import Check, Seen
from .config import DoctorConfig
from .finding import Finding
from .peers import Peers

_SHOWN = ("python", "torch", "triton", "deepspeed", "diffusers", "erasediff")
_INSTALL = "pip install -c constraints.txt 'erasediff[cuda]'"


def _look(peers: Peers, config: DoctorConfig) -> dict[str, Any]:
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    return {"versions": versions() | {"python": platform.python_version(), "triton": triton}, "asked": _asked()}


def _asked() -> str | None:
    """The Triton that this torch's own metadata asks for; None: a CPU build."""
    found = [re.match(r"triton\s*==\s*([\w.]+)", text) for text in requires("torch") or []]
    return next((match[1] for match in found if match), None)


def _judge(seen: Seen) -> list[Finding]:
    first = seen.values[0]["versions"]
    differing = [
        f"{seen.peers.name(rank)} has {name} {value['versions'].get(name, 'none')}"
        for rank, value in seen.values.items()
        for name in sorted(first.keys() | value["versions"].keys())
        if value["versions"].get(name) != first.get(name)
    ]
    if differing:
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        names = [name for name in first if any(f" has {name} " in text for text in differing)]
        ours = ", ".join(f"{name} {first[name]}" for name in names)
        found = f"{', '.join(differing[:4])}{more}; {seen.peers.name(0)} has {ours}"
        same = Finding("failed", "versions", found, "install the same on every node")
    else:
        same = Finding("ok", "versions", ", ".join(f"{name} {first[name]}" for name in _SHOWN))
    # one line for the worst pair
    order = ("failed", "warning", "ok")
    pairs = [_judge_pair(seen.where(rank), **value) for rank, value in seen.values.items()]
    return [same, min(pairs, key=lambda finding: order.index(finding.state))]


def _judge_pair(where: str, versions: dict[str, str], asked: str | None) -> Finding:
    torch, triton = versions["torch"], versions["triton"]
    if asked is None:
        return Finding("ok", "torch, Triton", f"torch {torch} is a CPU build and asks for no Triton")
    if triton != asked:
        found = f"{where}torch {torch} asks for Triton {asked}; found: {triton}"
        return Finding("failed", "torch, Triton", found, _INSTALL)
    if TRITON_OF_TORCH.get(torch.partition("+")[0]) != triton:
        tried = ", ".join(f"{torch} with {triton}" for torch, triton in TRITON_OF_TORCH.items())
        found = f"{where}torch {torch} with Triton {triton}, as it asks; the kernels were tried with {tried}"
        return Finding("warning", "torch, Triton", found)
    return Finding("ok", "torch, Triton", f"torch {torch} with Triton {triton}, a pair that was tried")


CHECK = Check("versions", _look, _judge, "install the same on every node")
