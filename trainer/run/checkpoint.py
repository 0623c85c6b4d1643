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

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.sharded_model import ShardedModel
from ..engine.vector import ShardedVector
from ..errors import ConfigError, TrainingError
from ..files import sha256_of
from ..ranks import collectives, meeting
from .attempts import Attempt
from .identity import Identity
from .saving import MANIFEST, Saving, hash_of, make_room, usable
from .slices import RankSlices, SliceReader

FORMAT = 2
# begins the names of a method's vectors
_METHOD = "method."


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
        self._saving: Saving | None = None

    def save(self, model: ShardedModel, step: int, of_method: Mapping[str, ShardedVector] | None = None) -> None:
        """Copies the model's and the method's state after `step` steps; a thread writes them as
        checkpoint-<step>. Waits for the save before it.

        Raises TrainingError on all ranks where that one failed, where the disk has no room for this one, or where a
        later attempt has taken the run over.
        """
        self.wait()
        folder = self._attempt.folder / f"checkpoint-{step:06d}"
        vectors = {"theta": model.theta} | model.optimizer.vectors()
        assert not any(mark in name for name in of_method or {} for mark in "/@"), "a name stands in a file's names"
        vectors |= {_METHOD + name: vector for name, vector in (of_method or {}).items()}
        slices = RankSlices({name: _copy(held) for name, held in vectors.items()}, model.theta.layout)
        num_bytes = torch.tensor(slices.num_bytes, dtype=torch.float64, device=model.device)
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
        self._saving = Saving(self._attempt, folder, slices, needed, state, self._keep)
        self._saving.start()

    def _claim(self, folder: Path, needed_bytes: int) -> None:
        problem = self._attempt.superseded() or make_room(folder, needed_bytes)
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
        settings, weights or data, TrainingError where a newer erasediff wrote it or the disk does not let it be read.
        """
        earlier = collectives.on_main(lambda: usable(self._attempt.run, before=self._attempt.number))
        for number, folder in reversed([*enumerate(earlier)]):
            state, problem = _verify(folder)
            if state is None:
                if collectives.is_main():
                    then = "using the one before it" if number else "there is none before it: the run begins again"
                    print(f"erasediff: {folder} is damaged ({problem}); {then}", file=sys.stderr)
                continue
            self._check(folder, state)
            reader = SliceReader([folder / name for name in state["files"]])
            partitions = {vector: reader.read(vector, model.theta.layout) for vector in state["vectors"]}
            of_method = {
                name.removeprefix(_METHOD): ShardedVector(model.theta.layout, partitions.pop(name).to(model.device))
                for name in state["vectors"]
                if name.startswith(_METHOD)
            }
            model.restore(partitions, state["num_updates"])
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


def _verify(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A checkpoint's state once every file has shown its hash, or what is wrong; the ranks share the reading.

    Raises TrainingError on all ranks where one cannot read a file that is there: it may be whole.
    """
    state, problem = collectives.on_main(lambda: _read_manifest(folder))
    if state is None:
        return None, problem
    mine = sorted(state["files"])[collectives.rank() :: collectives.world_size()]
    problem, unreadable = None, None
    try:
        problem = _first([_problem_of(folder / name, state["files"][name]) for name in mine])
    except TrainingError as error:
        unreadable = error
    unreadable = _first(collectives.gather(unreadable))
    if unreadable is not None:
        raise unreadable
    problem = _first(collectives.gather(problem))
    return (state, None) if problem is None else (None, problem)


def _read_manifest(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if hash_of(manifest["state"]) == manifest["sha256"]:
            return manifest["state"], None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    except OSError as error:
        raise _unreadable(folder / MANIFEST, error) from None
    return None, f"{MANIFEST} is not as it was written"


def _problem_of(path: Path, stamp: dict[str, Any]) -> str | None:
    """What is wrong with a file, if anything. Raises TrainingError for one that is there and cannot be read."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes != stamp["num_bytes"]:
            return f"{path.name} has {num_bytes:,} bytes of {stamp['num_bytes']:,}"
        found = sha256_of(path)
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        raise _unreadable(path, error) from None
    return None if found == stamp["sha256"] else f"{path.name} is not as it was written"


def _unreadable(path: Path, error: OSError) -> TrainingError:
    return TrainingError(f"{path} cannot be read: {error.strerror}; once it can, the same command continues")
