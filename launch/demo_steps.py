"""What the demos share: a command beside the others, a stage with its time, an erasure told whatever comes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..trainer.errors import ConfigError, ThresholdError, TrainingError
from ..trainer.files import check_place, write_text
from ..trainer.ranks import meeting

if TYPE_CHECKING:
    from ..trainer.config import EraseConfig
    from ..trainer.evidence.collect import Evidence
    from ..trainer.run.loop import Watch

Result = TypeVar("Result")
_REQUEST_NAME = "request.toml"


class Child:
    """This command in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path):
        self._process, self._log = process, log

    def wait(self) -> None:
        """Raises TrainingError if it fails."""
        if self._process.wait() != 0:
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise TrainingError(f"the retrained model's training failed: {' '.join(last)} ({self._log})")


@contextmanager
def in_background(words: list[str], log: Path) -> Iterator[Child]:
    """An `erasediff` command beside this process, its output in `log`; ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "erasediff.launch", *words],
            stdout=output,
            stderr=output,
            # it must not wait for cores that the other training spins on
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    try:
        yield Child(process, log)
    finally:
        process.terminate()
        process.wait()


def timed(what: str, do: Callable[[], Result]) -> Result:
    """Raises Interrupted where a stop was asked for too late for what was done to stop by itself."""
    start = time.perf_counter()
    print(f"{what} …", flush=True)
    result = do()
    print(f"{what}: {time.perf_counter() - start:.1f} s\n", flush=True)
    meeting.check()
    return result


def check_folder(folder: Path, text: str) -> None:
    """Raises ConfigError where it is none, is not a demo's, or holds one whose request.toml has another text."""
    request = folder / _REQUEST_NAME
    check_place(request, "--output")
    if folder.is_symlink() and not folder.exists():
        raise ConfigError(f"--output {folder} is a link to what is not there: choose another folder")
    if not request.is_file():
        # of one that was stopped before its first file was whole
        if folder.is_dir() and any(entry.name != f"{_REQUEST_NAME}.partial" for entry in folder.iterdir()):
            raise ConfigError(f"--output {folder} is not empty and holds no demo: choose another folder")
    elif request.read_bytes() != text.encode():
        raise ConfigError(f"--output {folder} holds a demo that forgets something else: choose another folder")


def write_request(folder: Path, text: str) -> Path:
    """request.toml; raises ConfigError as `check_folder` does."""
    check_folder(folder, text)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _REQUEST_NAME, text)
    return folder / _REQUEST_NAME


def split_once(data: Path, sets: Path, request: Path) -> None:
    """Makes D_r for the retrained model; the erasure makes its own sets, and no other copy of D_f is left lying."""
    from ..shards.requests.split import FORGET_NAME, split

    if not sets.exists():
        split(data, sets, request=request)
    shutil.rmtree(sets / FORGET_NAME, ignore_errors=True)


def erase(config: EraseConfig, watch: Watch | None, before_evaluation: Callable[[], None]) -> Evidence:
    """What `erasediff erase` does; a threshold that fails is told at the end, after the table."""
    from ..trainer.erase import run_erase
    from ..trainer.evidence.collect import Evidence
    from ..trainer.evidence.copies import REPORT_NAME
    from ..trainer.evidence.record import RECORD_NAME, read_record

    try:
        return run_erase(config, watch=watch, before_evaluation=before_evaluation).evidence
    except ThresholdError:
        output = Path(config.output)
        return Evidence(read_record(output / RECORD_NAME), output / RECORD_NAME, output / REPORT_NAME)
