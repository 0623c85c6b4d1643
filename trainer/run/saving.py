"""A checkpoint being written by a thread, while the next steps run. The ranks' threads meet through files alone."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import write_json
from ..ranks import collectives, meeting
from .attempts import Attempt, chain, read_attempts
from .slices import RankSlices, file_name

MANIFEST = "manifest.json"
# how long rank 0 waits for the other ranks' files after its own is written
WRITE_TIMEOUT_SECONDS = 600.0


class Saving(threading.Thread):
    """Writes one rank's part of a checkpoint; on rank 0 also waits for the other parts and publishes."""

    def __init__(
        self, attempt: Attempt, folder: Path, slices: RankSlices, needed_bytes: int, state: dict[str, Any], keep: int
    ):
        super().__init__(name=folder.name)
        self._attempt = attempt
        self.folder = folder
        self.error: str | None = None
        self.written = threading.Event()  # this rank's part is, or cannot be
        self.give_up = threading.Event()  # another rank's part cannot be
        self._slices: RankSlices | None = slices
        self._needed_bytes = needed_bytes
        self._state = state
        self._keep = keep
        self._rank, self._world_size = collectives.rank(), collectives.world_size()
        self._began = time.monotonic()

    def run(self) -> None:
        try:
            self._write()
            self.written.set()
            if self._rank == 0:
                self._publish()
        except Exception as error:  # a thread's error is seen by nobody else
            self.error = explain(error, self.folder, self._needed_bytes)
            # every rank hears of it with the next packet, and they all end in `wait`
            meeting.ask()
        finally:
            self._slices = None
            self.written.set()

    def _write(self) -> None:
        assert self._slices is not None
        name = file_name(self._rank, self._world_size)
        stamp = self._slices.write(self.folder / name)
        write_json(self.folder / name.replace(".safetensors", ".json"), stamp)

    def _publish(self) -> None:
        names = [file_name(rank, self._world_size) for rank in range(self._world_size)]
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
        seconds = round(time.monotonic() - self._began, 3)
        write_json(self.folder / MANIFEST, {"state": state, "sha256": hash_of(state), "seconds": seconds})
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
        kept = usable(run, before=number + 1)[-self._keep :]
        for attempt in read_attempts(run):
            for path in folders_of(attempt) if attempt.number <= number else []:
                if path not in kept:
                    shutil.rmtree(path, ignore_errors=True)


def usable(run: Path, *, before: int) -> list[Path]:
    """The published checkpoints of the chain up to the attempts numbered under `before`, oldest first."""
    return [
        path
        for link in chain(run, before=before)
        for path in folders_of(link.attempt)
        if (path / MANIFEST).exists() and link.first_step < step_of(path) <= link.until_step
    ]


def folders_of(attempt: Attempt) -> list[Path]:
    """An attempt's checkpoints, whole or not, the oldest first; what a person has put beside them is left alone."""
    found = (path for path in attempt.folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit())
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def hash_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def make_room(folder: Path, needed_bytes: int) -> str | None:
    """Makes the folder on a disk with room for the checkpoint; what is wrong otherwise."""
    try:
        free = shutil.disk_usage(folder.parent).free
        if free >= needed_bytes:
            folder.mkdir()
            return None
    except OSError as error:
        return explain(error, folder, needed_bytes)
    return _disk_full(folder, needed_bytes)


def explain(error: Exception, folder: Path, needed_bytes: int) -> str:
    """Why a checkpoint cannot be written."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(folder, needed_bytes)
    return f"{folder} cannot be written: {error}"


def _disk_full(folder: Path, needed_bytes: int) -> str:
    return (
        f"{folder}: the disk is full, the checkpoint needs {needed_bytes:,} bytes; the one before it is whole. "
        "Free some space and give the same command again"
    )
