"""A run's folder: its resolved config, a line of metrics a step, its checkpoints and, at the end, its model."""

from __future__ import annotations

import fcntl
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from . import distributed
from .config import Settings
from .errors import ConfigError
from .settings import as_dict, dump_toml, flatten, read_toml

LOGS_NAME = "logs"  # what the ranks print, where a launcher keeps it
LOCK_NAME = "lock"

# locks this process holds, by path: they end with it, however it ends
_locks: dict[Path, IO[str]] = {}

# what may change when a run is continued: how the work is spread and when it is saved, never what is computed
FREE_KEYS = frozenset(
    {
        "output",
        "engine.zero_stage",
        "engine.device",
        "engine.forward_batch_size",
        "engine.reduce_bucket_size",
        "engine.overlap_communication",
        "engine.num_threads",
        "engine.step_timeout_seconds",
        "train.checkpointing_steps",
        "train.checkpoints_total_limit",
    }
)


def _what_counts(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(settings).items() if key not in FREE_KEYS}


class RunFolder:
    """The folder of one run. All ranks make it; rank 0 writes what is written once."""

    def __init__(self, config: Settings, output: str):
        self.path = Path(output)
        self.metrics_path = self.path / "metrics.jsonl"
        self.model_path = self.path / "model"
        self.identity = _what_counts(as_dict(config))  # flat settings that decide the result
        problem = distributed.agree(self._claim(config) if distributed.is_main() else None)
        if problem is not None:
            raise ConfigError(str(problem))

    def _claim(self, config: Settings) -> str | None:
        """Makes the folder or finds this very run in it; what is wrong otherwise."""
        if not self.path.exists():
            self.path.mkdir(parents=True)
        elif not self.path.is_dir():
            return f"output = '{self.path}' is a file: name a folder"
        recorded = self.path / "config.toml"
        if recorded.exists():
            theirs, ours = _what_counts(read_toml(recorded)), self.identity
            differing = [key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]
            if differing:
                key = differing[0]
                more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
                return (
                    f"output = '{self.path}' holds another run: {key} = {theirs.get(key)!r} there, {ours.get(key)!r} "
                    f"here{more}; choose another output, or remove the folder"
                )
        elif any(entry.name not in (LOGS_NAME, LOCK_NAME) for entry in self.path.iterdir()):
            return f"output = '{self.path}' is not empty and holds no run: choose another output"
        if not self._lock():
            return f"output = '{self.path}': another process is working on this run; wait for it, or end it first"
        if not recorded.exists():
            temporary = self.path / "config.toml.partial"
            temporary.write_text(dump_toml(config))
            temporary.rename(recorded)
        return None

    def _lock(self) -> bool:
        """Whether no other process works on this run, and from now on none can."""
        path = (self.path / LOCK_NAME).resolve()
        if path not in _locks:
            file = path.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            _locks[path] = file
        return True

    @property
    def is_finished(self) -> bool:
        """Whether the model is there, agreed by all ranks."""
        return bool(distributed.agree(self.model_path.exists()))

    def start_metrics(self, first_step: int) -> None:
        """Drops the lines of `first_step` and later ones, which are about to be computed again."""
        if not distributed.is_main():
            return
        lines = self.metrics_path.read_text().splitlines() if self.metrics_path.exists() else []
        kept = [line for line in lines if _step_of(line) < first_step]
        temporary = self.metrics_path.with_suffix(".partial")
        temporary.write_text("".join(line + "\n" for line in kept))
        temporary.rename(self.metrics_path)

    def log(self, metrics: dict[str, Any]) -> None:
        """Appends a line; a number that is not finite becomes its name, JSON having none for it."""
        if not distributed.is_main():
            return
        line = {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in metrics.items()
        }
        with self.metrics_path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.metrics_path.read_text().splitlines()]

    def publish_model(self, write: Callable[[Path], None]) -> None:
        """Has rank 0 `write` the model into a folder that appears as model/ only when it is complete."""
        if distributed.is_main():
            temporary = self.path / "model.partial"
            shutil.rmtree(temporary, ignore_errors=True)
            write(temporary)
            temporary.rename(self.model_path)
        distributed.barrier()


def _step_of(line: str) -> float:
    """The step of a line of metrics; infinite for one that a kill has torn."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
