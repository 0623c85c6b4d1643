"""`erasediff launch local`: a command on N processes of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import tyro

from ..trainer.errors import ConfigError
from .erase import Erase
from .options import parse
from .train import Pretrain, Scrub

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

COMMANDS = {"scrub": Scrub, "pretrain": Pretrain, "erase": Erase}
SHOWN_LINES = 30
ROOM_FOR_LOGS_BYTES = 1 << 20


@dataclass(frozen=True)
class Options:
    """Run scrub, pretrain or erase on several processes of this machine, one a rank; each rank logs to OUTPUT/logs.

    When one rank fails all end, and its error is shown. SIGTERM and Ctrl-C stop with what was done saved (exit code 75:
    the same command continues); a second one 2 s later or more stops at once.
    """

    num_processes: Annotated[int, tyro.conf.arg(aliases=["-n"])]
    """Ranks; on CUDA each takes a device of its own."""
    kill_delay_seconds: int = 30
    """How long the other ranks may take to end after one has failed, before they are killed."""


@dataclass(frozen=True)
class Local:
    options: Options
    words: tuple[str, ...]  # of the command that every rank runs
    output: Path

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Local:
        at = next((i for i, word in enumerate(words) if word in COMMANDS), len(words))
        options = parse(Options, words[:at], prog=prog)
        if at == len(words):
            raise ConfigError(f"{prog}: name the command to run: {prog} -n 2 scrub run.toml")
        if options.num_processes < 1:
            raise ConfigError(f"--num-processes {options.num_processes}: at least 1")
        if options.kill_delay_seconds < 0:
            raise ConfigError(f"--kill-delay-seconds {options.kill_delay_seconds}: at least 0")
        command, *rest = words[at:]
        if "--dry-run" in rest:
            raise ConfigError(f"--dry-run needs one process: erasediff {command} --dry-run")
        config = COMMANDS[command].read(rest, prog=f"{prog} {command}").config
        return cls(options, tuple(words[at:]), Path(config.output))

    def run(self) -> None:
        """Leaves through SystemExit with the exit status of the rank that failed first."""
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std

        from ..trainer.run.folder import LOGS_NAME
        from ..trainer.run.provenance import now
        from .ranks import Ranks

        num_ranks = self.options.num_processes
        try:
            logs = DefaultLogsSpecs(str(self.output / LOGS_NAME), redirects=Std.ALL, tee={0: Std.ALL})
        except OSError as error:
            raise ConfigError(f"output = '{self.output}': {error.strerror}") from None
        port = _free_port()
        shared = {
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": now(),
            # every rank taking all cores would make them wait for each other
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_ranks))),
        }
        ranks = Ranks(
            sys.executable,
            ("-m", "erasediff.launch", *self.words),
            {rank: shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)},
            logs,
            self.options.kill_delay_seconds,
        )

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
        if failure is not None:
            sys.exit(_report(failure, ranks.stderrs[failure.local_rank]))


def _report(failure: ProcessFailure, log: str) -> int:
    """Shows the error of the rank that failed first, unless it is rank 0's own, which is shown already."""
    status = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    if shutil.disk_usage(log).free < ROOM_FOR_LOGS_BYTES:
        print(
            f"erasediff: the disk of '{Path(log).parents[3]}' is full, what the ranks said last may be lost; "
            "free some space and give the same command again",
            file=sys.stderr,
        )
    if failure.local_rank == 0 and failure.exitcode > 0:
        return status
    how = f"left with exit code {status}" if failure.exitcode > 0 else f"was ended by {failure.signal_name()}"
    said = Path(log).read_text(errors="replace").splitlines()[-SHOWN_LINES:]
    told = failure.message if Path(failure.error_file).exists() else "\n".join(said)
    print(f"erasediff: rank {failure.local_rank} {how}; its log is {log}", file=sys.stderr)
    print(told, file=sys.stderr)
    return status


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
