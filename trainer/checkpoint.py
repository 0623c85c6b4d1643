"""Checkpoints in our own layout: every rank writes the slices it holds, so any world size and ZeRO stage reads them.

    checkpoint-000100/
        rank-00000-of-00002.safetensors    tensors "vector/parameter@offset", flat slices
        state.json                         step, applied updates, versions

A checkpoint is written under another name and renamed when every rank is done.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import distributed
from .engine import ShardedModel
from .errors import TrainingError
from .sharded import Layout

FORMAT = 1


def save(model: ShardedModel, run: Path, step: int, keep: int) -> None:
    """Writes checkpoint-<step>, the state after `step` steps, and removes all but the newest `keep`. All ranks."""
    final = run / f"checkpoint-{step:06d}"
    partial = run / f".checkpoint-{step:06d}.partial"
    if distributed.is_main():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    distributed.barrier()
    vectors = {"theta": model.theta} | model.optimizer.vectors()
    slices = {
        f"{vector}/{piece.name}@{piece.parameter_offset}": held.data[
            piece.shard_offset : piece.shard_offset + piece.length
        ].cpu()
        for vector, held in vectors.items()
        for piece in held.layout.segments
    }
    name = f"rank-{distributed.rank():05d}-of-{distributed.world_size():05d}.safetensors"
    save_file(slices, partial / name)
    distributed.barrier()
    if distributed.is_main():
        state = {
            "format": FORMAT,
            "step": step,
            "num_updates": model.optimizer.num_updates(),
            "world_size": distributed.world_size(),
            "vectors": list(vectors),
            "versions": {package: version(package) for package in ("erasediff", "torch", "deepspeed")},
        }
        (partial / "state.json").write_text(json.dumps(state, indent=2))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in _all(run)[:-keep]:
            shutil.rmtree(old)
    distributed.barrier()


def _all(run: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in run.glob("checkpoint-*") if (path / "state.json").exists())


def restore_newest(model: ShardedModel, run: Path) -> int:
    """Puts the newest checkpoint's state into `model`; returns the steps it holds, 0 without one. All ranks."""
    newest = distributed.agree(next((str(path) for path in reversed(_all(run))), None))
    if newest is None:
        return 0
    folder = Path(str(newest))
    state = json.loads((folder / "state.json").read_text())
    if state["format"] > FORMAT:
        raise TrainingError(f"{folder} was written by a newer erasediff ({state['versions']['erasediff']})")
    try:
        reader = _SliceReader(folder)
        model.restore(
            {vector: reader.read(vector, model.theta.layout) for vector in state["vectors"]}, state["num_updates"]
        )
    except (SafetensorError, KeyError, OSError) as error:
        raise TrainingError(f"{folder} is damaged ({error}): remove it to continue from the one before it") from None
    return state["step"]


class _SliceReader:
    """The slices of all ranks' files, found by vector and parameter."""

    def __init__(self, folder: Path):
        self._where: dict[tuple[str, str], list[tuple[int, Any, str]]] = {}
        for path in sorted(folder.glob("rank-*.safetensors")):
            file = safe_open(path, framework="pt")
            for name in file.keys():  # noqa: SIM118 not a dict
                place, _, offset = name.rpartition("@")
                vector, _, parameter = place.partition("/")
                self._where.setdefault((vector, parameter), []).append((int(offset), file, name))

    def read(self, vector: str, layout: Layout) -> Tensor:
        """This rank's shard of a vector, flat fp32 on the CPU."""
        shard = torch.zeros(layout.shard_numel)
        for piece in layout.segments:
            start, end = piece.parameter_offset, piece.parameter_offset + piece.length
            found = 0
            for offset, file, name in self._where[(vector, piece.name)]:
                stored = file.get_slice(name)
                low, high = max(start, offset), min(end, offset + stored.get_shape()[0])
                if low < high:
                    at = piece.shard_offset + low - start
                    shard[at : at + high - low] = stored[low - offset : high - offset]
                    found += high - low
            if found != piece.length:
                raise KeyError(f"{vector}/{piece.name} is incomplete")
        return shard
