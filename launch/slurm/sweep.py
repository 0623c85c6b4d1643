"""`erasediff launch sweep`: many runs as one array, a run folder each, and a table of what became of them."""

from __future__ import annotations

import inspect
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import TypeAdapter, ValidationError

from ...shards.errors import DataError
from ...trainer.config.base import AtLeast1, Settings
from ...trainer.config.toml import read_toml, with_setting
from ...trainer.errors import ConfigError
from ..job import Job, Resources
from . import controller
from .folder import submissions
from .profile import Profile
from .submit import check, read_profile, taken
from .table import is_done, newest_of_each, table
from .watch import ASK_SECONDS, watching

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
        if path.name.startswith("-"):
            raise ConfigError(f"{prog} {path}: the sweep's file comes first: {prog} SWEEP.toml {path} …")
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
        jobs = {name: self._check(name, job) for name, job in self._open_jobs()}
        if jobs:
            from .batch import Batch

            batch = Batch(self.folder, jobs, self.profile, f"sweep-{self.folder.absolute().name}", self.parallel)
            if self.dry_run:
                print("\n".join(f"# {name}: {job.folder}" for name, job in jobs.items()))
                print(batch.script(), end="")
                return
            first = batch.submit()[0].job.partition("_")[0]
            print(f"{len(jobs)} runs as job {first}; erasediff launch status {self.folder}")
        else:
            print("every run has finished, or is at work")
        if self.wait and not self.dry_run:
            with watching(f"'{self.folder}'"):
                self._follow()

    def _open_jobs(self) -> Iterator[tuple[str, Job]]:
        """Those that have neither finished nor are in SLURM's hands. Raises ConfigError for finished ones that were
        made with other settings."""
        for name, job in self.jobs.items():
            if is_done(job.folder):
                self._hold_to_settings(name, job)
            elif not controller.alive([one.job for one in submissions(job.folder)]):
                yield name, job

    def _hold_to_settings(self, name: str, job: Job) -> None:
        from ...trainer.run.folder import check_output

        try:
            check_output(job.config, job.config.output)
        except ConfigError as error:
            raise ConfigError(f"run {name}: {error}") from None

    def _check(self, name: str, job: Job) -> Job:
        try:
            return check(job, self.profile)
        except (ConfigError, DataError) as error:
            raise ConfigError(f"run {name}: {error}") from None

    def _follow(self) -> None:
        told: dict[str, str] = {}
        followed = [one for one in newest_of_each(self.folder) if one.name in self.jobs]
        states: dict[str, controller.State] = {}
        while True:
            open_ones = [one.job for one in followed if one.job not in states or not states[one.job].has_ended]
            states |= controller.states(open_ones)
            for job, state in states.items():
                if told.get(job) != str(state):
                    told[job] = str(state)
                    print(f"job {job}: {state}", flush=True)
            if all(state.has_ended for state in states.values()):
                break
            time.sleep(ASK_SECONDS)
        print("\n".join(table(self.folder)))
        if not all(states[one.job].name == "COMPLETED" or is_done(self.folder / one.name) for one in followed):
            sys.exit(1)


def read_sweep(path: Path) -> SweepFile:
    """Raises ConfigError for a file that says no sweep."""
    try:
        # as they stand, for the runs' own files: 'none' stays the word
        sweep = TypeAdapter(SweepFile).validate_python(read_toml(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        found = f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}"
        raise ConfigError(f"{path}: {found}; a sweep's file has output, config, and [runs.NAME] or [grid]") from None
    if not sweep.runs and not sweep.grid:
        raise ConfigError(f"{path}: it names no run: give [runs.NAME] or [grid]")
    for key, values in sweep.grid.items():
        if not values:
            raise ConfigError(f"{path}: grid has no value for {key}")
    for where, settings in [
        *((f"runs.{name}", settings) for name, settings in sweep.runs.items()),
        ("grid", sweep.grid),
    ]:
        if "output" in settings:
            raise ConfigError(f"{path}: {where}.output: a run's folder is {sweep.output}/NAME, leave it out")
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
                values = with_setting(values, key, value)
            values = with_setting(values, "output", str(Path(sweep.output) / name))
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
