"""A job's processes on this machine, started and watched by the part of torch's elastic launcher that does so."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
from types import FrameType

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, LogsSpecs, Std
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from ..trainer.errors import ConfigError
from ..trainer.run.folder import LOGS_NAME
from ..trainer.run.provenance import now
from .failure import report
from .job import Job


class Ranks(SubprocessContext):
    """One process a rank; when one fails, the others are told to end, and killed after `kill_delay_seconds`."""

    def __init__(
        self,
        program: str,
        arguments: tuple[str, ...],
        environments: dict[int, dict[str, str]],
        logs: LogsSpecs,
        kill_delay_seconds: int,
    ):
        # its notes on what it sends to whom would come before the error that matters
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        unmarked = dict.fromkeys(environments, "")
        super().__init__("rank", program, dict.fromkeys(environments, arguments), environments, logs, unmarked)
        self.stderrs: dict[int, str]
        self._kill_delay_seconds = kill_delay_seconds
        self._failed_first: list[int] = []

    def send(self, number: int) -> None:
        """Passes a signal on to every rank."""
        for pid in self.pids().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait_for_all(self) -> ProcessFailure | None:
        """Until every rank has ended; the failure that came first, if there was one."""
        result = self.wait(period=0.1)
        assert result is not None
        if not result.is_failed():
            return None

        def order(rank: int) -> tuple[bool, bool, bool, int]:
            # a rank that fails takes others down within one look at them, which may leave before it does
            exitcode = result.failures[rank].exitcode
            return exitcode == os.EX_UNAVAILABLE, rank not in self._failed_first, exitcode != -signal.SIGKILL, rank

        return result.failures[min(result.failures, key=order)]

    def _close(self, death_sig: signal.Signals, timeout: int = 30) -> None:
        self._failed_first = self._failed_first or list(self._failures)
        super()._close(death_sig, self._kill_delay_seconds)


def run_here(job: Job, kill_delay_seconds: int) -> int:
    """Runs a job on this machine, passes SIGTERM and Ctrl-C on; the exit status of the rank that failed first, or 0.

    Raises ConfigError where the logs have no place.
    """
    try:
        logs = DefaultLogsSpecs(str(job.folder / LOGS_NAME), redirects=Std.ALL, tee={0: Std.ALL})
    except OSError as error:
        raise ConfigError(f"output = '{job.folder}': {error.strerror}") from None
    ranks = Ranks(sys.executable, job.arguments, _environments(job.resources.num_ranks), logs, kill_delay_seconds)

    def forward(number: int, frame: FrameType | None) -> None:
        ranks.send(number)

    # SIGHUP stays as it is: nohup has to hold for the launcher too
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT")
    ranks.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    try:
        failure = ranks.wait_for_all()
    except BaseException:
        ranks.close()  # or the threads that read the logs keep this process for ever
        raise
    return 0 if failure is None else report(failure, ranks.stderrs[failure.local_rank])


def _environments(num_ranks: int) -> dict[int, dict[str, str]]:
    """What torch's launchers tell each rank of one machine."""
    shared = {
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "TORCHELASTIC_RUN_ID": now(),
        # every rank taking all cores would make them wait for each other
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_ranks))),
    }
    return {rank: shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
