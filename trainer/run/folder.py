"""A run's folder: its resolved config, its attempts and, at the end, its metrics and its model."""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from ..config import Settings
from ..config.toml import dump_toml, read_toml
from ..errors import ConfigError, TrainingError
from ..files import NO_LOCKS, check_place, open_up, sync, sync_tree, write_text
from ..ranks import collectives
from .attempts import (
    FINISHED,
    METRICS_NAME,
    Attempt,
    chain,
    read_attempts,
    read_metrics,
)
from .identity import Identity, free_settings, what_counts
from .provenance import INPUTS_NAME, AnyInputs, record_inputs

LOGS_NAME = "logs"  # what the ranks print, where a launcher keeps it
SLURM_NAME = "slurm"  # what was submitted, and what became of it
LOCK_NAME = "lock"
CONFIG_NAME = "config.toml"

PARTIAL_NAME = "model.partial"

# what may lie in a folder in which no run has begun
_BEFORE_A_RUN = frozenset({LOGS_NAME, SLURM_NAME, LOCK_NAME, f"{CONFIG_NAME}.partial"})

# locks this process holds, by path: they end with it, however it ends
_locks: dict[Path, IO[str]] = {}


class RunFolder:
    """The folder of one run. All ranks make it; rank 0 writes what is written once."""

    def __init__(self, config: Settings, output: str):
        self.path = Path(output)
        self.model_path = self.path / "model"
        self.identity = Identity.of(config)
        self.free_settings = free_settings(config)
        collectives.on_main(lambda: self._claim(config))

    def _claim(self, config: Settings) -> None:
        """Makes the folder or finds this very run in it; raises ConfigError otherwise."""
        check_output(config, str(self.path))
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._lock() and not is_finished(self.path):
            raise ConfigError(
                f"output = '{self.path}': another process is working on this run; wait for it, or end it first"
            )
        recorded = self.path / CONFIG_NAME
        if not recorded.exists():
            write_text(recorded, dump_toml(config))
        if not is_finished(self.path):
            chain(self.path)

    def _lock(self) -> bool:
        """Whether no other process works on this run, and from now on none can.

        Where the file system has no locks, the attempts alone keep two starts apart.
        """
        path = (self.path / LOCK_NAME).resolve()
        if path not in _locks:
            file = path.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            _locks[path] = file
        return True

    @property
    def is_finished(self) -> bool:
        """Whether the model is there and counts, agreed by all ranks."""
        return collectives.on_main(lambda: is_finished(self.path))

    def hold_to(self, inputs: AnyInputs) -> None:
        """Notes what the run works on when it is started first. All ranks call it.

        Raises ConfigError, on all of them, where a disk holds something else than rank 0's, or where the run, finished
        or not, was begun on other weights or samples.
        """
        collectives.check_same_everywhere(inputs.hashes() | inputs.noted_sha256)
        collectives.on_main(lambda: self._hold_to(inputs))

    def _hold_to(self, inputs: AnyInputs) -> None:
        if is_finished(self.path) and not (self.path / INPUTS_NAME).exists():
            said = "was finished by an erasediff that did not note its inputs: whether they have changed is not known"
            print(f"erasediff: output = '{self.path}' {said}", file=sys.stderr)
            return
        record_inputs(self.path, inputs)

    def publish_model(self, write: Callable[[Path], None], attempt: Attempt | None = None) -> None:
        """Has rank 0 `write` the model into a folder that appears as model/ only when it is complete.

        With an attempt, the metrics of its chain appear beside it. Raises TrainingError on all ranks where that attempt
        no longer counts, where `write` raises it, or where the files cannot be written.
        """
        collectives.on_main(lambda: self._publish(write, attempt))

    def _publish(self, write: Callable[[Path], None], attempt: Attempt | None) -> None:
        place = self.path if attempt is None else attempt.folder
        temporary = place / PARTIAL_NAME
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            write(temporary)
            open_up(temporary)
            sync_tree(temporary)
            superseded = None if attempt is None else attempt.superseded()
            if superseded is not None:
                raise TrainingError(f"{superseded}; no model is published")
            if attempt is not None:
                lines = "".join(json.dumps(line) + "\n" for line in read_metrics(self.path))
                write_text(self.path / METRICS_NAME, lines)
            if self.model_path.exists():  # of an attempt that had been given up
                self.model_path.rename(place / "model.void")
            temporary.rename(self.model_path)
            sync(self.path)
            if attempt is not None:  # last: until then the same command makes the model anew
                attempt.end(FINISHED)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"{temporary} cannot be made the model: {error}; once that is mended, the same command continues"
            ) from None


def _is_run(path: Path) -> bool:
    """Whether its config.toml is a run's: others write files of that name too."""
    if not (path / CONFIG_NAME).is_file():
        return False
    try:
        return "output" in read_toml(path / CONFIG_NAME)
    except ConfigError:
        if any(path.glob("attempt-*")):
            raise
        return False


def check_output(config: Settings, output: str) -> None:
    """Raises ConfigError for a folder that this run can neither begin nor continue in; writes nothing."""
    path, identity = Path(output), Identity.of(config)
    check_place(path, "output")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"output = '{path}' is a file: name a folder")
    recorded = path / CONFIG_NAME
    if _is_run(path):
        theirs, ours = what_counts(read_toml(recorded)), identity.values
        differing = identity.differing(theirs)
        if differing:
            key = differing[0]
            if unknown := sorted(name for name in theirs.keys() - ours.keys() if "." not in name):
                raise ConfigError(
                    f"output = '{path}' holds a run of another command, which has {unknown[0]}: choose another output"
                )
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            raise ConfigError(
                f"output = '{path}' holds another run: {key} = {theirs.get(key)!r} there, {ours.get(key)!r} "
                f"here{more}; set it as it is there to continue that run, or choose another output"
            )
    elif path.exists() and any(entry.name not in _BEFORE_A_RUN for entry in path.iterdir()):
        raise ConfigError(f"output = '{path}' is not empty and holds no run: choose another output")


def is_finished(run: Path) -> bool:
    """Whether a run's model is there and counts."""
    model_exists, attempts = (run / "model").exists(), read_attempts(run)
    if not attempts:  # a run without any, or one whose attempts were deleted after its end
        return model_exists
    newest = attempts[-1].manifest()
    return model_exists and newest is not None and newest.ended == FINISHED
