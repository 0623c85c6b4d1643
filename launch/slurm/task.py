"""What runs on a node, one a rank: the submitted object. Heavy imports come when it is called."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ...trainer.errors import ConfigError, Interrupted
from ...trainer.files import sha256_of
from ...trainer.ranks import meeting
from ...trainer.ranks.last_words import leave_word
from .folder import Start

# so long a rank that leaves with an error lets the others say theirs, before SLURM kills them for it
LAST_WORDS_SECONDS = 5.0
# the same for ranks that were asked to stop, and have all saved
LAST_NOTES_SECONDS = 60.0
# the run's, and the doctor's behind them: below those that Linux gives to connections by itself, from 32,768 on
FIRST_PORT, NUM_PORTS = 20_000, 6_000


@dataclass(frozen=True)
class Task:
    """A command's words, and where its ranks leave word of how they ended."""

    words: tuple[str, ...]
    slurm: str
    """Folder of the jobs' folders."""
    cache_dir: str | None = None
    stage_to: str | None = None
    with_doctor: bool = False
    request: tuple[str, str] | None = None
    """The file that says what is to be forgotten, which the settings only name, and its SHA-256 at submission."""

    def __call__(self) -> NoReturn:
        for number in meeting.SIGNALS:  # submitit's handlers save on one rank alone
            signal.signal(number, _stop_before_work)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        meeting.be_patient()
        start = Start.here(Path(self.slurm))
        rank, num_ranks = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
        status = 1
        try:
            start.folder.mkdir(parents=True, exist_ok=True)
            os.environ["TORCHELASTIC_ERROR_FILE"] = str(start.error_path(rank))
            os.environ |= rank_environment(os.environ)
            where = f"rank {rank} of {num_ranks} on {socket.gethostname()}"
            for stream in (sys.stdout, sys.stderr):
                print(f"erasediff: start {start.number} of job {start.folder.parent.name}, {where}", file=stream)
            status = self._run()
        except Interrupted:
            status = os.EX_TEMPFAIL
        except Exception as error:  # nobody foresaw it: the traceback is submitit's to print
            leave_word(f"{type(error).__name__}: {error}", status)
            raise
        finally:
            for number in meeting.SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            start.note_rank(rank, status=status, host=socket.gethostname(), time=time.time())
            if status:
                _let_others_speak(start, num_ranks, status)
        from ...trainer.ranks.collectives import end_process

        end_process(status)

    def _run(self) -> int:
        from ...shards.errors import DataError
        from ...shards.format.staging import staged
        from ..cli import fail, main
        from ..job import Job, Resources

        with meeting.on_signals():
            if self.request is not None and request_of(self.request[0]) != self.request:
                told = f"request = '{self.request[0]}' is not what it was when the job was submitted"
                return fail(ConfigError(f"{told}: put it back and submit again, or submit what it says now"), 2)
            try:
                os.environ |= caches(self.cache_dir, os.environ)
                if self.stage_to is not None:
                    datasets = Job.of(self.words, Resources(1, 1), "").read.datasets
                    os.environ |= staged([Path(path) for path in datasets], Path(self.stage_to))
            except (ConfigError, DataError, OSError) as error:
                return fail(error, 1)
            if self.with_doctor and (status := _examine(self.words)):
                return status
            return main(list(self.words))


def request_of(path: str | None) -> tuple[str, str] | None:
    """(path, SHA-256) of a request's file; None where there is none."""
    return None if path is None or not Path(path).is_file() else (path, sha256_of(Path(path)))


def _examine(words: tuple[str, ...]) -> int:
    """`doctor` on this rank, in a process and a group of its own; its exit status."""
    told = os.environ | {"MASTER_PORT": str(int(os.environ["MASTER_PORT"]) + NUM_PORTS)}
    doctor = [sys.executable, "-m", "erasediff.launch", "doctor", words[1]]
    status = subprocess.run(doctor, env=told).returncode
    return status if status >= 0 else 128 - status


def _stop_before_work(number: int, frame: object) -> None:
    raise Interrupted("stopped before it began")


def _let_others_speak(start: Start, num_ranks: int, status: int) -> None:
    """Waits until all ranks have noted their ends: srun ends every task once one leaves with an error."""
    wait_seconds = LAST_NOTES_SECONDS if status == os.EX_TEMPFAIL else LAST_WORDS_SECONDS
    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline and not all(start.rank_path(rank).exists() for rank in range(num_ranks)):
        time.sleep(0.1)


def rank_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What torch and DeepSpeed want to know, from what SLURM says.

    The port is another one with every start: nobody left over from an earlier one can join.
    """
    from submitit.slurm.slurm import SlurmJobEnvironment

    job, restart = int(environment["SLURM_JOB_ID"]), int(environment.get("SLURM_RESTART_COUNT", "0"))
    threads = environment.get("OMP_NUM_THREADS") or environment.get("SLURM_CPUS_PER_TASK", "1")
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_NTASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": environment.get("SLURM_NTASKS_PER_NODE", environment["SLURM_NTASKS"]),
        "MASTER_ADDR": SlurmJobEnvironment().hostnames[0],
        "MASTER_PORT": str(FIRST_PORT + (job * 7 + restart * 1009) % NUM_PORTS),
        "OMP_NUM_THREADS": threads,
    }


def caches(folder: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Where this node keeps what it compiles; what the environment names already stays.

    Raises ConfigError where somebody else has made the folder that is taken if none is named: what lies there is run.
    """
    base = Path(folder or Path(tempfile.gettempdir()) / f"erasediff-{os.getuid()}")
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder is None and base.stat().st_uid != os.getuid():
        raise ConfigError(f"'{base}' on {socket.gethostname()} is another user's: name a cache_dir of your own")
    places = {"TRITON_CACHE_DIR": base / "triton", "TORCH_EXTENSIONS_DIR": base / "torch_extensions"}
    return {name: str(place) for name, place in places.items() if name not in environment}
