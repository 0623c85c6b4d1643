"""`erasediff launch local`: a command on N processes of this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..trainer.errors import ConfigError
from .job import Job, Resources, split_words
from .options import check_datasets, parse


@dataclass(frozen=True)
class Options:
    """Run a command on several processes of this machine, one a rank; each rank logs to OUTPUT/logs.

    When one rank fails all end, and its error is shown. SIGTERM and Ctrl-C stop with what was done saved (exit code 75:
    the same command continues); a second one 2 s later or more stops at once.
    """

    num_processes: Annotated[int, tyro.conf.arg(aliases=["-n"])]
    """Ranks; on CUDA each takes a device of its own."""
    kill_delay_seconds: int = 30
    """How long the other ranks may take to end after one has failed, before they are killed."""


@dataclass(frozen=True)
class Local:
    job: Job
    kill_delay_seconds: int

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Local:
        ours, command = split_words(words)
        options = parse(Options, ours, prog=prog)
        if not command:
            raise ConfigError(f"{prog}: name the command to run: {prog} -n 2 scrub run.toml")
        if options.num_processes < 1:
            raise ConfigError(f"--num-processes {options.num_processes}: at least 1")
        if options.kill_delay_seconds < 0:
            raise ConfigError(f"--kill-delay-seconds {options.kill_delay_seconds}: at least 0")
        return cls(Job.of(command, Resources(1, options.num_processes), prog), options.kill_delay_seconds)

    def run(self) -> None:
        """Leaves through SystemExit with the exit status of the rank that failed first."""
        from .ranks import run_here

        if self.job.command != "erase":  # of a finished one the data may be deleted
            check_datasets(self.job.read.datasets)
        status = run_here(self.job, self.kill_delay_seconds)
        if status:
            sys.exit(status)
