"""The datasets, on every rank: what their manifests tell of is there, and is the same everywhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ...shards.checking.verify import file_problems, index_problems
from ...shards.dataset import Dataset
from ...shards.errors import DataError
from ...shards.format.manifest import INDEX_NAME
from ...trainer.config import PretrainConfig
from ...trainer.run.provenance import Inputs, PretrainInputs, read_inputs
from .check import Check, Seen
from .config import DoctorConfig
from .finding import Finding, size
from .peers import Peers

_ADVICE = "copy the same files to every machine"


def _look(peers: Peers, config: DoctorConfig) -> dict[str, Any]:
    return {name: _look_at(Path(path), peers, config.full) for name, path in config.datasets.items()}


def _look_at(path: Path, peers: Peers, full: bool) -> dict[str, Any]:
    """Manifest, index and sizes; `full`: every byte, which the ranks of a host share."""
    try:
        data = Dataset.open(path)
    except (DataError, OSError) as error:
        return {"problems": [str(error)]}
    shards = data.manifest.shards
    problems = index_problems(path / INDEX_NAME, data.manifest, data.index)
    if full and not problems:
        number, count = peers.share()
        problems = [line for shard in shards[number::count] for line in file_problems(path / shard.path, shard)]
    return {
        "problems": problems,
        "fingerprint": data.fingerprint,
        "num_samples": len(data),
        "num_shards": len(shards),
        "num_bytes": sum(shard.bytes for shard in shards),
    }


def _judge(seen: Seen) -> list[Finding]:
    return [_judge_one(seen, name, path) for name, path in seen.config.datasets.items()]


def _judge_one(seen: Seen, name: str, path: str) -> Finding:
    found = {rank: values[name] for rank, values in seen.values.items()}
    damaged = {rank: value["problems"] for rank, value in found.items() if value["problems"]}
    if damaged:
        rank, problems = next(iter(damaged.items()))
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        elsewhere = f"; {len(damaged) - 1} more ranks find something" if len(damaged) > 1 else ""
        return Finding("failed", name, f"{seen.where(rank)}{problems[0]}{more}{elsewhere}")
    first = found[0]
    others = [rank for rank, value in found.items() if value["fingerprint"] != first["fingerprint"]]
    if others:
        return Finding("failed", name, f"'{path}': {seen.peers.name(*others)} and rank 0 have other samples", _ADVICE)
    recorded = _recorded(seen.config, name)
    if recorded not in (None, first["fingerprint"]):
        told = f"'{path}' holds other samples than those the run in '{seen.config.output}' was begun with"
        return Finding("failed", name, told, "put them back, or choose another output")
    shards = f"{first['num_shards']:,} shard{'s' if first['num_shards'] > 1 else ''}, {size(first['num_bytes'])}"
    read = "every byte as recorded" if seen.config.full else "index and sizes as recorded, contents not read (--full)"
    samples = f"{first['num_samples']:,} samples {first['fingerprint'][:12]}…"
    return Finding("ok", name, f"'{path}': {samples} in {shards}: {read}")


def _recorded(config: DoctorConfig, name: str) -> str | None:
    """The fingerprint that the run was begun with."""
    kind = PretrainInputs if isinstance(config.run, PretrainConfig) else Inputs
    inputs = read_inputs(Path(config.output), kind)
    stamps = {} if inputs is None else {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
    return stamps[name].fingerprint if name in stamps else None


CHECK = Check("shards", _look, _judge)
