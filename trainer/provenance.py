"""Where things come from: hashes of weights, versions, and what a run was started on.

inputs.json holds the base model's hash and both sets' fingerprints; a scrub writes it before its first step.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ..shards.dataset import Dataset
from . import distributed
from .errors import ConfigError
from .files import write_json

INPUTS_NAME = "inputs.json"


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, shapes and fp32 values of weights, in the order of their names.

    The same for weights in memory and for the file they were saved to, whatever else the file holds.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class DataStamp:
    """Which samples a dataset folder holds."""

    path: str
    fingerprint: str
    """SHA-256 over class names and every sample's key, label and content."""
    num_samples: int

    @classmethod
    def of(cls, data: Dataset) -> DataStamp:
        return cls(str(data.path), data.fingerprint, len(data))


@dataclass(frozen=True)
class Inputs:
    """What a scrub was started on."""

    base_weights_sha256: str
    forget: DataStamp
    remain: DataStamp


def versions() -> dict[str, str]:
    """Of the packages that figures depend on, and of the code: a commit where it runs from a git checkout."""
    found = {name: version(name) for name in ("erasediff", "torch", "deepspeed", "diffusers", "torchmetrics", "numpy")}
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def _commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record_inputs(run: Path, inputs: Inputs) -> None:
    """Notes what the run works on when it is started first. All ranks call it.

    Raises ConfigError where the run was begun on other weights or other samples than these.
    """
    problem = distributed.agree(_record(run, inputs) if distributed.is_main() else None)
    if problem is not None:
        raise ConfigError(str(problem))


def _record(run: Path, inputs: Inputs) -> str | None:
    recorded = read_inputs(run)
    if recorded is None:
        write_json(run / INPUTS_NAME, asdict(inputs))
    elif recorded.base_weights_sha256 != inputs.base_weights_sha256:
        return f"output = '{run}' was begun from other weights than model.path holds now: choose another output"
    elif (recorded.forget.fingerprint, recorded.remain.fingerprint) != (
        inputs.forget.fingerprint,
        inputs.remain.fingerprint,
    ):
        return f"output = '{run}' was begun with other samples in forget or remain: choose another output"
    return None


def read_inputs(run: Path) -> Inputs | None:
    """What `record_inputs` noted; None for a run without it."""
    try:
        values = json.loads((run / INPUTS_NAME).read_text())
    except FileNotFoundError:
        return None
    return Inputs(values["base_weights_sha256"], DataStamp(**values["forget"]), DataStamp(**values["remain"]))
