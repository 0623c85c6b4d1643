"""Checkpoints in our own layout: every rank writes the slices it holds, so any world size and ZeRO stage reads them.

    attempt-0001/checkpoint-000100/
        rank-00000-of-00002.safetensors    tensors "vector/parameter@offset", flat slices
        rank-00000-of-00002.json           that file's size and hash, renamed when the file is on the disk
        manifest.json                      step, applied updates, versions, what it belongs to, every file's hash

A checkpoint is there when its manifest is: that is renamed last. It counts while its attempt does, see `attempts`. The
state is copied between two steps and written by a thread while the next steps run. The threads of the ranks find each
other through files alone, so that they never mix with the collectives of the training.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..engine.sharded_model import ShardedModel
from ..engine.vector import Layout, Segment, ShardedVector
from ..errors import ConfigError, TrainingError
from ..files import write_json
from ..ranks import collectives, meeting
from .attempts import Attempt, chain, read_attempts
from .identity import Identity

FORMAT = 2
MANIFEST = "manifest.json"
# begins the names of a method's vectors
_METHOD = "method."

# how long rank 0 waits for the other ranks' files after its own is written
WRITE_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Beginning:
    """What an attempt goes on from."""

    folder: Path | None = None
    """The checkpoint; None: there is none, and the run begins."""
    step: int = 0
    """Steps that are done."""
    state: dict[str, ShardedVector] = field(default_factory=dict)
    """The method's."""


class Checkpoints:
    """An attempt's checkpoints, and those it may begin from. All ranks make it and call its methods together."""

    def __init__(self, attempt: Attempt, keep: int, identity: Identity):
        """`keep`: the newest so many stay. `identity`: what a checkpoint must have been made with to be read here."""
        self._attempt = attempt
        self._keep = keep
        self._identity = identity
        self._saving: _Saving | None = None

    def save(self, model: ShardedModel, step: int, state: Mapping[str, ShardedVector] | None = None) -> None:
        """Copies the model's and the method's `state` after `step` steps; a thread writes them as
        checkpoint-<step>. Waits for the save before it.

        Raises TrainingError on all ranks where that one failed, where the disk has no room for this one, or where a
        later attempt has taken the run over.
        """
        self.wait()
        folder = self._attempt.folder / f"checkpoint-{step:06d}"
        vectors = {"theta": model.theta} | model.optimizer.vectors()
        vectors |= {_METHOD + name: vector for name, vector in (state or {}).items()}
        shard = _Shard({name: _copy(held) for name, held in vectors.items()}, model.theta.layout)
        num_bytes = torch.tensor(shard.num_bytes, dtype=torch.float64, device=model.device)
        needed = int(collectives.sum_(num_bytes))
        collectives.on_main(lambda: self._claim(folder, needed))
        state = {
            "format": FORMAT,
            "step": step,
            "num_updates": model.optimizer.num_updates(),
            "world_size": collectives.world_size(),
            "vectors": list(vectors),
            "identity": self._identity.values,
            "versions": {package: version(package) for package in ("erasediff", "torch", "deepspeed")},
        }
        self._saving = _Saving(self._attempt, folder, shard, needed, state, self._keep)
        self._saving.start()

    def _claim(self, folder: Path, needed_bytes: int) -> None:
        problem = self._attempt.superseded() or _make_room(folder, needed_bytes)
        if problem is not None:
            raise TrainingError(problem)

    def wait(self) -> None:
        """Until the save under way is complete, on all ranks. Raises TrainingError on all of them if it failed."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        saving.written.wait()
        error = _first(collectives.gather(saving.error))
        if error is not None:
            saving.give_up.set()
        saving.join()
        error = error or _first(collectives.gather(saving.error))
        if error is not None:
            if collectives.is_main() and not (saving.folder / MANIFEST).exists():
                shutil.rmtree(saving.folder, ignore_errors=True)
            meeting.reset()  # the thread's wish has been met
            raise TrainingError(str(error))

    def restore_newest(self, model: ShardedModel) -> Beginning:
        """Puts the newest whole checkpoint's state into `model`.

        A damaged one is named on stderr and passed over. Raises ConfigError where the checkpoint belongs to other
        settings, weights or data, TrainingError where a newer erasediff wrote it.
        """
        earlier = collectives.on_main(lambda: _usable(self._attempt.run, before=self._attempt.number))
        for folder in reversed(earlier):
            state, problem = _verify(folder)
            if state is None:
                if collectives.is_main():
                    print(f"erasediff: {folder} is damaged ({problem}); using the one before it", file=sys.stderr)
                continue
            self._check(folder, state)
            reader = _SliceReader([folder / name for name in state["files"]])
            shards = {vector: reader.read(vector, model.theta.layout) for vector in state["vectors"]}
            of_method = {
                name.removeprefix(_METHOD): ShardedVector(model.theta.layout, shards.pop(name).to(model.device))
                for name in state["vectors"]
                if name.startswith(_METHOD)
            }
            model.restore(shards, state["num_updates"])
            return Beginning(folder, state["step"], of_method)
        return Beginning()

    def _check(self, folder: Path, state: dict[str, Any]) -> None:
        if state["format"] > FORMAT:
            raise TrainingError(f"{folder} was written by a newer erasediff ({state['versions']['erasediff']})")
        theirs, ours = state["identity"], self._identity.values
        differing = self._identity.differing(theirs)
        if differing:
            shown = "; ".join(f"{key} = {theirs.get(key)!r} there, {ours.get(key)!r} here" for key in differing)
            raise ConfigError(f"{folder} belongs to another run: {shown}. Choose another output")


def _first(problems: list[Any]) -> Any:
    return next((problem for problem in problems if problem is not None), None)


def _copy(vector: ShardedVector) -> Tensor:
    return vector.data.to("cpu", copy=True)


def _usable(run: Path, *, before: int) -> list[Path]:
    """The published checkpoints of the chain up to the attempts numbered under `before`, oldest first."""
    return [
        path
        for link in chain(run, before=before)
        for path in _folders(link.attempt)
        if (path / MANIFEST).exists() and link.first_step < _step_of(path) <= link.until_step
    ]


def _folders(attempt: Attempt) -> list[Path]:
    """An attempt's checkpoints, whole or not, the oldest first; what a person has put beside them is left alone."""
    found = (path for path in attempt.folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit())
    return sorted(found, key=_step_of)


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _make_room(folder: Path, needed_bytes: int) -> str | None:
    """Makes the folder on a disk with room for the checkpoint; what is wrong otherwise."""
    try:
        free = shutil.disk_usage(folder.parent).free
        if free >= needed_bytes:
            folder.mkdir()
            return None
    except OSError as error:
        return _explain(error, folder, needed_bytes)
    return _disk_full(folder, needed_bytes)


def _explain(error: Exception, folder: Path, needed_bytes: int) -> str:
    """Why a checkpoint cannot be written."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(folder, needed_bytes)
    return f"{folder} cannot be written: {error}"


def _disk_full(folder: Path, needed_bytes: int) -> str:
    return (
        f"{folder}: the disk is full, the checkpoint needs {needed_bytes:,} bytes; the one before it is whole. "
        "Free some space and give the same command again"
    )


@dataclass(frozen=True)
class _Shard:
    """A copy of what this rank holds of every vector, on the CPU, and the safetensors file that it becomes."""

    vectors: dict[str, Tensor]
    layout: Layout

    def _slices(self) -> list[tuple[str, Tensor, Segment]]:
        return [(name, data, piece) for name, data in self.vectors.items() for piece in self.layout.segments]

    def _header(self) -> bytes:
        entries, offset = {}, 0
        for vector, data, piece in self._slices():
            end = offset + piece.length * data.element_size()
            entries[f"{vector}/{piece.name}@{piece.parameter_offset}"] = {
                "dtype": "F32",
                "shape": [piece.length],
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return len(self._header()) + sum(piece.length * data.element_size() for _, data, piece in self._slices())

    def write(self, path: Path) -> dict[str, Any]:
        """Writes the file through to the disk; returns its size and hash. Makes no second copy of the data."""
        digest = hashlib.sha256()
        num_bytes = 0
        with path.open("wb") as file:
            header = self._header()
            pieces = (d[p.shard_offset : p.shard_offset + p.length].numpy() for _, d, p in self._slices())
            for chunk in (header, *(piece.data.cast("B") for piece in pieces)):
                file.write(chunk)
                digest.update(chunk)
                num_bytes += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        return {"sha256": digest.hexdigest(), "num_bytes": num_bytes}


class _Saving(threading.Thread):
    """Writes one rank's part of a checkpoint; on rank 0 also waits for the other parts and publishes."""

    def __init__(
        self, attempt: Attempt, folder: Path, shard: _Shard, needed_bytes: int, state: dict[str, Any], keep: int
    ):
        super().__init__(name=folder.name)
        self._attempt = attempt
        self.folder = folder
        self.error: str | None = None
        self.written = threading.Event()  # this rank's part is, or cannot be
        self.give_up = threading.Event()  # another rank's part cannot be
        self._shard: _Shard | None = shard
        self._needed_bytes = needed_bytes
        self._state = state
        self._keep = keep
        self._rank, self._world_size = collectives.rank(), collectives.world_size()

    def run(self) -> None:
        try:
            self._write()
            self.written.set()
            if self._rank == 0:
                self._publish()
        except Exception as error:  # a thread's error is seen by nobody else
            self.error = _explain(error, self.folder, self._needed_bytes)
            # every rank hears of it with the next packet, and they all end in `wait`
            meeting.ask()
        finally:
            self._shard = None
            self.written.set()

    def _write(self) -> None:
        assert self._shard is not None
        name = _file_name(self._rank, self._world_size)
        stamp = self._shard.write(self.folder / name)
        write_json(self.folder / name.replace(".safetensors", ".json"), stamp)

    def _publish(self) -> None:
        names = [_file_name(rank, self._world_size) for rank in range(self._world_size)]
        deadline = time.monotonic() + WRITE_TIMEOUT_SECONDS
        files: dict[str, Any] = {}
        for name in names:
            stamp = self.folder / name.replace(".safetensors", ".json")
            while not stamp.exists():
                if self.give_up.is_set():
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.folder}: {name} was not written in {WRITE_TIMEOUT_SECONDS:.0f} s")
                time.sleep(0.02)
            files[name] = json.loads(stamp.read_text())
        self._attempt.sync_metrics()
        state = self._state | {"files": files}
        write_json(self.folder / MANIFEST, {"state": state, "sha256": _hash_of(state)})
        try:
            self._remove_old()
        except (OSError, ConfigError) as error:  # this one is there: the run goes on
            line = f"erasediff: {self.folder} is saved, but older checkpoints cannot be removed: {error}"
            print(line, file=sys.stderr, flush=True)

    def _remove_old(self) -> None:
        """All but the newest: what was left half-written, damaged, or void; nothing of an attempt later than this."""
        run, number = self._attempt.run, self._attempt.number
        if self._attempt.superseded() is not None:
            return
        kept = _usable(run, before=number + 1)[-self._keep :]
        for attempt in read_attempts(run):
            for path in _folders(attempt) if attempt.number <= number else []:
                if path not in kept:
                    shutil.rmtree(path, ignore_errors=True)


def _file_name(rank: int, world_size: int) -> str:
    return f"rank-{rank:05d}-of-{world_size:05d}.safetensors"


def _hash_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _verify(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A checkpoint's state once every file has shown its hash, or what is wrong; the ranks share the reading."""
    state, problem = collectives.on_main(lambda: _read_manifest(folder))
    if state is None:
        return None, problem
    mine = sorted(state["files"])[collectives.rank() :: collectives.world_size()]
    problems = (_problem_of(folder / name, state["files"][name]) for name in mine)
    found = collectives.gather(_first(list(problems)))
    problem = _first(found)
    return (state, None) if problem is None else (None, problem)


def _read_manifest(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if _hash_of(manifest["state"]) == manifest["sha256"]:
            return manifest["state"], None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None, f"{MANIFEST} is not as it was written"


def _problem_of(path: Path, stamp: dict[str, Any]) -> str | None:
    """What is wrong with a file, if anything."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes != stamp["num_bytes"]:
            return f"{path.name} has {num_bytes:,} bytes of {stamp['num_bytes']:,}"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    return None if found == stamp["sha256"] else f"{path.name} is not as it was written"


class _SliceReader:
    """The slices of all ranks' files, found by vector and parameter."""

    def __init__(self, files: list[Path]):
        self._where: dict[tuple[str, str], list[tuple[int, Any, str]]] = {}
        for path in files:
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
            assert found == piece.length, f"{vector}/{piece.name} is incomplete"
        return shard
