"""The processes of one launch, run by the part of torch's elastic launcher that watches processes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal

from torch.distributed.elastic.multiprocessing import LogsSpecs
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


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
