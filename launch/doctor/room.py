"""The run's settings, its model, and disk space: for checkpoints in the output, for what is built beside it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...shards.errors import DataError
from ...trainer.config import PretrainConfig, ScrubConfig
from ...trainer.errors import ConfigError
from .check import Check, Seen
from .config import DoctorConfig, RunConfig
from .finding import Finding, size
from .peers import Peers

if TYPE_CHECKING:
    from ...trainer.models.model import Model

# Triton's compiler, a launcher's logs, a dataset's parts while they are written
LITTLE_TEMPORARY_BYTES = 1 << 30
TOO_LITTLE_TEMPORARY_BYTES = 1 << 26


def _look(peers: Peers, config: DoctorConfig) -> dict[str, Any]:
    temporary = tempfile.gettempdir()
    found: dict[str, Any] = {
        "temporary": temporary,
        "asked": os.environ.get("TMPDIR", temporary),
        "temporary_bytes": shutil.disk_usage(temporary).free,
    }
    run = config.run
    if run is not None and not isinstance(run, PretrainConfig):
        found["weights"] = _weights(run)
    if peers.rank == 0:
        output = Path(config.output)
        there = next(path for path in (output, *output.absolute().parents) if path.exists())
        found["output_bytes"] = shutil.disk_usage(there).free
        if run is not None:
            try:
                found |= _needed(run, _checked(run), output)
            except (ConfigError, DataError) as error:
                found["refused"] = str(error)
    return found


def _weights(run: RunConfig) -> dict[str, int]:
    """Names and sizes of the model's files. Raises ConfigError where it is not there."""
    from ...trainer.models.pipeline import resolve

    assert not isinstance(run, PretrainConfig)
    folder = resolve(run.model)
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*.safetensors"))}


def _checked(run: RunConfig) -> Model:
    """Its model, with what trains of it. Raises ConfigError or DataError where the run would be refused."""
    from ...trainer import erase, pretrain, scrubbing
    from ...trainer.models.families import load_model
    from ...trainer.models.layers import train_only

    if isinstance(run, PretrainConfig):
        return pretrain.plan(run)[1]
    if isinstance(run, ScrubConfig):
        model = scrubbing.check(run).model
    else:
        erase.check(run)
        model = load_model(run.model)
    train_only(model.module, run.train.layers, "train.layers")
    return model


def _needed(run: RunConfig, model: Model, output: Path) -> dict[str, Any]:
    """What the run will write."""
    from ...trainer.run.room import checkpoint_bytes, most_checkpoints, saved_bytes

    shapes = {name: tuple(p.shape) for name, p in model.module.named_parameters() if p.requires_grad}
    num_kept = 0 if isinstance(run, PretrainConfig) else run.method.num_vectors_kept
    one = checkpoint_bytes(shapes, run.optimizer, num_kept)
    return {
        "num_parameters": sum(p.numel() for p in model.module.parameters() if p.requires_grad),
        "checkpoint_bytes": one,
        "num_checkpoints": most_checkpoints(run.train),
        "to_come_bytes": max(one, most_checkpoints(run.train) * one - saved_bytes(output)),
        "model_bytes": 4 * sum(p.numel() for p in model.module.parameters()),  # without the pipeline's other parts
    }


def _judge(seen: Seen) -> list[Finding]:
    refused = seen.values[0].get("refused")
    if refused is not None:
        return [Finding("failed", "settings", refused, "the run would be refused"), _judge_temporary(seen)]
    settings = [] if seen.config.run is None else [Finding("ok", "settings", "the run would not be refused")]
    return [*settings, *_judge_model(seen), _judge_disk(seen), _judge_temporary(seen)]


def _judge_model(seen: Seen) -> list[Finding]:
    first = seen.values[0]
    run = seen.config.run
    if run is None:
        return []
    trains = f"{first['num_parameters']:,} parameters to train"
    if isinstance(run, PretrainConfig):
        return [Finding("ok", "model", f"made from nothing: {trains}")]
    others = [rank for rank, value in seen.values.items() if value["weights"] != first["weights"]]
    if others:
        found = f"'{run.model.path}': {seen.peers.name(*others)} and rank 0 have files of other names or sizes"
        return [Finding("failed", "model", found, "copy the same files to every machine")]
    return [Finding("ok", "model", f"'{run.model.path}': {trains}")]


def _judge_disk(seen: Seen) -> Finding:
    value, where = seen.values[0], f"'{seen.config.output}'"
    free = f"{size(value['output_bytes'])} free in {where}"
    if seen.config.run is None:
        return Finding("ok", "disk", f"{free}; what a run needs is not known without its file")
    # the pipeline as it is, with other weights
    model_bytes = sum(value.get("weights", {}).values()) or value["model_bytes"]
    needed = value["to_come_bytes"] + model_bytes
    number, one = value["num_checkpoints"], size(value["checkpoint_bytes"])
    parts = f"{number} checkpoint{'s' if number > 1 else ''} of {one} and a model of {size(model_bytes)}"
    told = f"{free}, {size(needed)} needed for {parts}"
    if value["output_bytes"] < needed:
        todo = "free some, choose another output, or lower train.checkpoints_total_limit"
        return Finding("failed", "disk", told, todo)
    return Finding("ok", "disk", told)


def _judge_temporary(seen: Seen) -> Finding:
    rank = min(seen.values, key=lambda rank: seen.values[rank]["temporary_bytes"])
    value = seen.values[rank]
    told = f"{seen.where(rank)}{size(value['temporary_bytes'])} free in '{value['temporary']}'"
    if value["temporary_bytes"] < TOO_LITTLE_TEMPORARY_BYTES:
        return Finding("failed", "temporary", told, "free some, or set TMPDIR to a folder of the node's own disk")
    moved = [rank for rank, value in seen.values.items() if value["asked"] != value["temporary"]]
    if moved:
        asked = seen.values[moved[0]]["asked"]
        found = f"{seen.where(moved[0])}TMPDIR = '{asked}' cannot be written; '{value['temporary']}' is used"
        return Finding("warning", "temporary", found, "make it in the job's set-up, or set another")
    if value["temporary_bytes"] < LITTLE_TEMPORARY_BYTES:
        return Finding("warning", "temporary", told, "Triton and the logs may need more: set TMPDIR")
    return Finding("ok", "temporary", told)


CHECK = Check("disk", _look, _judge)
