"""`erasediff launch doctor`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import tyro

from ...trainer.errors import ConfigError, TrainingError
from ..options import parse
from .config import DoctorConfig, read_run
from .finding import num_failed


@dataclass(frozen=True)
class Options:
    """Look whether this machine, or every node of a job, can carry a run: launch doctor [RUN.toml] [OPTIONS]

    One line a check: ok, warning or failed, what was looked at, what was found and what to do. Exit code 1 where a
    check failed. RUN.toml is that of a scrub, pretrain or erase; options of that command may follow. On all ranks of a
    job: erasediff launch local -n 2 doctor RUN.toml
    """

    shards: tuple[str, ...] = ()
    """Dataset folders to look at, beside those of the run."""
    output: str | None = None
    """Folder that the run would write to; the run's, or this one, if not given."""
    full: bool = False
    """Read every byte of the shards (each host reads all of them, its ranks a share each), not their index alone."""
    fill_cache: str | None = None
    """Folder to fill with what Triton builds at a first start, on a machine with a GPU and a C compiler: nodes without
    one take a copy of it as TRITON_CACHE_DIR."""
    timeout_seconds: float = 120.0
    """How long one check may take on a rank."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = field(default=False)
    """Print one line of JSON instead."""


@dataclass(frozen=True)
class Doctor:
    config: DoctorConfig
    as_json: bool = False

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Doctor:
        words = list(words)
        file = words.pop(0) if words and not words[0].startswith("-") else None
        # tyro then returns what it does not know, too: the run's options
        options, others = cast(tuple[Options, list[str]], parse(Options, words, prog=prog, return_unknown_args=True))
        if options.timeout_seconds <= 0:
            raise ConfigError(f"--timeout-seconds {options.timeout_seconds:g}: more than 0")
        if file is None and others:
            raise ConfigError(f"unknown option {others[0]}: those of a run need its file, {prog} RUN.toml …")
        run = None
        if file is not None:
            output = () if options.output is None else ("--output", options.output)
            run = read_run(file, [*others, *output], prog)
        config = DoctorConfig(
            output=run.output if run is not None else options.output or ".",
            shards=options.shards,
            run=run,
            full=options.full,
            fill_cache=options.fill_cache,
            timeout_seconds=options.timeout_seconds,
        )
        return cls(config, options.as_json)

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def datasets(self) -> list[str]:
        return []

    def check(self) -> None:
        """Whatever is wrong, it is there to say so."""

    def run(self) -> None:
        """Prints on rank 0, as it goes; raises TrainingError on every rank where a check failed."""
        from .examine import findings_of, is_stuck
        from .peers import Peers

        peers = Peers.meet(self.config.timeout_seconds)
        findings = []
        for finding in findings_of(peers, self.config):
            findings.append(finding)
            if peers.rank == 0 and not self.as_json:
                print(finding.line(), flush=True)
        failed = num_failed(findings)
        if peers.rank == 0 and self.as_json:
            shown: dict[str, Any] = {"failed": failed, "hosts": peers.hosts}
            print(json.dumps(shown | {"findings": [dataclasses.asdict(finding) for finding in findings]}), flush=True)
        if failed:
            told = f"{failed} of {len(findings)} checks failed"
            if is_stuck():
                if peers.rank == 0:
                    print(f"erasediff: {told}", file=sys.stderr, flush=True)
                os._exit(1)
            raise TrainingError(told)
