"""`erasediff launch sweep`: many runs as one array, a run folder each, and a table of what became of them."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import TypeAdapter, ValidationError

from ...trainer.config.base import AtLeast1, Settings
from ...trainer.config.toml import read_toml
from ...trainer.errors import ConfigError
from ..job import Job, Resources
from . import controller
from .delay import signal_delay
from .folder import Submission, note_submission, submissions
from .profile import Profile
from .submit import check, read_profile, refusal, taken, task
from .table import newest_of_each, table
from .watch import ASK_SECONDS

_FLAGS = ("--dry-run", "--wait")


@dataclass(frozen=True)
class SweepFile(Settings):
    """A sweep as its TOML file has it."""

    output: str
    """Folder of the sweep; each run has its own in it, by its name."""
    config: str
    """TOML file with the settings that all runs share."""
    command: Literal["scrub", "pretrain", "erase"] = "scrub"
    parallel: AtLeast1 = 16
    """At most so many runs at a time."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings over the shared ones, by the run's name."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Values of dotted keys; each run is made once for every combination of them."""


@dataclass(frozen=True)
class Sweep:
    """Submit SWEEP.toml's runs as an array. Again: those that have neither finished nor wait nor run.

    --only NAME takes one run alone; --dry-run prints the runs and the script; --wait follows until all have ended, and
    prints the table that `erasediff launch status SWEEP` prints at any time.
    """

    folder: Path
    jobs: dict[str, Job]
    parallel: int
    profile: Profile
    dry_run: bool
    wait: bool

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Sweep:
        words = list(words)
        if not words or words[0] in ("-h", "--help"):
            print(f"usage: {prog} SWEEP.toml [--profile FILE.toml] [PROFILE OPTIONS]\n")
            print(inspect.cleandoc(cls.__doc__ or ""))
            print("\nSWEEP.toml has output, config, command, parallel, [runs.NAME] and [grid]; docs/operations.md.\n")
            raise SystemExit(0 if words else 2)
        path = Path(words.pop(0))
        file, words = taken(words, "--profile")
        only, words = taken(words, "--only")
        profile = read_profile(file, [word for word in words if word not in _FLAGS], prog)
        sweep = read_sweep(path)
        jobs = _jobs(sweep, path, profile, prog)
        if only is not None and only not in jobs:
            raise ConfigError(f"--only {only}: {path} has no such run; it has {', '.join(jobs)}")
        chosen = {name: job for name, job in jobs.items() if only in (None, name)}
        return cls(Path(sweep.output), chosen, sweep.parallel, profile, "--dry-run" in words, "--wait" in words)

    def run(self) -> None:
        """Submits; with --wait leaves through SystemExit with 1 where a run has failed."""
        if not self.dry_run:
            controller.require()
        jobs = {name: check(job, self.profile) for name, job in self._open_jobs()}
        if self.dry_run:
            print("\n".join(f"# {name}: {job.folder}" for name, job in jobs.items()))
            made = self._executor()
            if len(jobs) > 1:
                made.parameters["map_count"] = len(jobs)  # as submitit does for an array
            print(made.text(), end="")
            return
        if jobs:
            submitted = self._submit(jobs)
            print(
                f"{len(jobs)} runs as job {submitted[0].job.partition('_')[0]}; erasediff launch status {self.folder}"
            )
        else:
            print("every run has finished, or is at work")
        if self.wait:
            self._follow()

    def _open_jobs(self) -> Iterator[tuple[str, Job]]:
        """Those that have neither finished nor are in SLURM's hands."""
        for name, job in self.jobs.items():
            earlier = [one.job for one in submissions(job.folder)]
            alive = [state for state in controller.states(earlier).values() if state.is_known and not state.has_ended]
            if not alive and not (job.folder / "model").exists():
                yield name, job

    def _executor(self) -> Any:
        from .script import executor
        from .snapshot import code_path

        folder = self.folder.absolute()
        made = executor(
            self.profile,
            folder,
            name=f"sweep-{folder.name}",
            code=code_path(folder / "slurm"),
            signal_delay_s=signal_delay(self.profile, folder),
        )
        made.update_parameters(array_parallelism=self.parallel)
        return made

    def _submit(self, jobs: Mapping[str, Job]) -> list[Submission]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from ...trainer.run.provenance import now
        from .snapshot import keep_code, keep_config

        slurm = self.folder.absolute() / "slurm"
        made = self._executor()
        made.check()
        try:
            keep_code(slurm)
            tasks = []
            for job in jobs.values():
                run = job.folder.absolute()
                tasks.append(task(keep_config(run / "slurm", job), slurm, run, self.profile))
            with contextlib.redirect_stderr(io.StringIO()), made.batch():
                handles = [made.submit(one) for one in tasks]
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(f"SLURM refuses the job: {refusal(str(error))}") from None
        except OSError as error:
            raise ConfigError(f"output = '{self.folder}': {error.strerror}") from None
        found = []
        for (name, job), handle in zip(jobs.items(), handles, strict=True):
            noted = Submission(
                job=handle.job_id,
                folder=handle.job_id,
                date=now(),
                command=job.command,
                num_nodes=self.profile.nodes,
                num_ranks=self.profile.num_ranks,
                name=name,
            )
            note_submission(self.folder, noted)
            note_submission(
                job.folder,
                dataclasses.replace(
                    noted, folder=os.path.relpath(slurm / noted.folder, job.folder.absolute() / "slurm")
                ),
            )
            found.append(noted)
        return found

    def _follow(self) -> None:
        told: dict[str, str] = {}
        while True:
            states = controller.states([one.job for one in newest_of_each(self.folder)])
            for job, state in states.items():
                if told.get(job) != str(state):
                    told[job] = str(state)
                    print(f"job {job}: {state}", flush=True)
            if all(state.has_ended or not state.is_known for state in states.values()):
                break
            time.sleep(ASK_SECONDS)
        print("\n".join(table(self.folder)))
        if any(not (self.folder / one.name / "model").exists() for one in newest_of_each(self.folder)):
            sys.exit(1)


def read_sweep(path: Path) -> SweepFile:
    """Raises ConfigError for a file that says no sweep."""
    try:
        sweep = TypeAdapter(SweepFile).validate_python(read_toml(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not sweep.runs and not sweep.grid:
        raise ConfigError(f"{path}: it names no run: give [runs.NAME] or [grid]")
    for key, values in sweep.grid.items():
        if not values:
            raise ConfigError(f"{path}: grid has no value for {key}")
    for name in sweep.runs:
        if not name or name.startswith(".") or "/" in name or name in ("slurm", "logs"):
            raise ConfigError(f"{path}: runs.{name}: a name is a folder's")
    return sweep


def _jobs(sweep: SweepFile, path: Path, profile: Profile, prog: str) -> dict[str, Job]:
    """A job for each run, by its name. Raises ConfigError for settings that the command would refuse."""
    shared = read_toml(Path(sweep.config))
    found: dict[str, Job] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, chosen in _expanded(sweep):
            values = shared
            for key, value in chosen.items():
                values = _with(values, key, value)
            values = _with(values, "output", str(Path(sweep.output) / name))
            file = Path(scratch) / f"{name}.toml"
            file.write_text(tomli_w.dumps(values))
            try:
                job = Job.of((sweep.command, str(file)), Resources(profile.nodes, profile.ranks_per_node), prog)
            except ConfigError as error:
                raise ConfigError(f"{path}: {str(error).replace(str(file), f'run {name}')}") from None
            if name in found:
                raise ConfigError(f"{path}: two runs are named {name}")
            found[name] = job
    return found


def _expanded(sweep: SweepFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and settings of all runs: each of `runs`, for every combination of the grid's values."""
    for name, own in (sweep.runs or {"": {}}).items():
        for values in itertools.product(*sweep.grid.values()):
            chosen = dict(zip(sweep.grid, values, strict=True))
            told = [f"{key.rpartition('.')[2]}={value}" for key, value in chosen.items()]
            yield ",".join([*([name] if name else []), *told]).replace("/", "_"), own | chosen


def _with(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The settings with one of them changed; a table changes those it names."""
    head, dot, rest = key.partition(".")
    section = values.get(head, {})
    if dot:
        return values | {head: _with(section if isinstance(section, dict) else {}, rest, value)}
    if isinstance(value, dict) and isinstance(section, dict):
        for inner, one in value.items():
            section = _with(section, inner, one)
        return values | {head: section}
    return values | {head: value}
