"""`erasediff launch status|logs|cancel RUN`, and `--wait`: a run's jobs, seen from its folder, on any day."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ...trainer.errors import ConfigError
from . import controller
from .controller import State
from .folder import Start, Submission, newest, starts, submissions
from .table import table

RunPath = Annotated[Path, tyro.conf.Positional]
# how often SLURM is asked, and how long a shared file system may show an older state
ASK_SECONDS, LAG_SECONDS = 2.0, 20.0


@dataclass(frozen=True)
class Status:
    """Say what became of a run's jobs: their state, each start's end, and what the run has to show; or of a sweep's."""

    run_folder: RunPath
    """The run's folder; of `sample` the one beside its picture."""

    def run(self) -> None:
        print("\n".join(table(self.run_folder) if runs_of(self.run_folder) else describe(self.run_folder)))


@dataclass(frozen=True)
class Logs:
    """Show what the ranks of a run's newest job said: the first error, then each rank's last lines."""

    run_folder: RunPath
    """The run's folder."""
    lines: int = 40
    """So many of each rank's last lines."""
    rank: int | None = None
    """This rank's whole log instead."""

    def run(self) -> None:
        if self.lines < 1:
            raise ConfigError(f"--lines {self.lines}: at least 1")
        if names := runs_of(self.run_folder):
            raise ConfigError(f"'{self.run_folder}' is a sweep: give the folder of one of its runs, {', '.join(names)}")
        print("\n".join(merged_logs(self.run_folder, self.lines, self.rank)))


@dataclass(frozen=True)
class Cancel:
    """End a run's job. Its ranks are asked first, and save if SLURM's KillWait is long enough for a step and a save."""

    run_folder: RunPath
    """The run's folder."""

    def run(self) -> None:
        controller.require()
        alive = controller.alive([one.job for one in _submissions(self.run_folder)])
        if not alive:
            raise ConfigError(f"'{self.run_folder}' has no job that waits or runs")
        for job in alive:
            controller.cancel(job)
            print(f"job {job}: cancelled")


def _submissions(run: Path) -> list[Submission]:
    found = submissions(run)
    if not found:
        raise ConfigError(f"'{run}' holds nothing of a job: give the folder of a run that `launch slurm` submitted")
    return found


def runs_of(folder: Path) -> list[str]:
    """Names of a sweep's runs; none in a run's own folder, which knows the sweep's job under another path."""
    return list(dict.fromkeys(one.name for one in submissions(folder) if one.name and one.folder == one.job))


def describe(run: Path) -> list[str]:
    """A run's jobs, a line each, with a line for each of their starts."""
    found = _submissions(run)
    states = controller.states([one.job for one in found])
    lines: list[str] = []
    for one in found:
        known = starts(run / "slurm" / one.folder)
        lines.append(
            f"job {one.job}  {one.command} on {one.num_ranks} ranks, submitted {one.date}: "
            f"{_outcome(states[one.job], known)}"
        )
        for start in known:
            end, ranks = start.end(), start.ranks()
            hosts = ", ".join(sorted({str(said["host"]) for said in ranks.values()}))
            where = f" on {hosts}" if hosts else ""
            is_last = start is known[-1]
            how = _cut_off(states[one.job] if is_last else State("PENDING")) if end is None else end.how
            lines.append(f"  start {start.number}{where}: {how}")
    return [*lines, f"the run has {newest(run)[1]}"]


def _cut_off(state: State) -> str:
    """What became of a start that has not said how it ended. state: of its job, PENDING where another start came."""
    if state.name == "RUNNING":
        return "at work"
    if state.name == "TIMEOUT":
        return "had not saved when its time limit came: give it a longer signal_delay_s"
    if state.name in ("PENDING", "COMPLETING", "NODE_FAIL", "PREEMPTED"):
        return "ended without a word: SLURM took its nodes away"
    return f"ended without a word: {state.name}"


def _outcome(state: State, known: list[Start]) -> str:
    if state.is_known:
        return str(state)
    end = known[-1].end() if known else None
    if end is None or end.is_requeued:
        who = "nobody of SLURM answers" if state.name == "UNREACHABLE" else "SLURM no longer knows it"
        return f"{who}, and it did not say how it ended"
    return f"{'COMPLETED' if end.status == 0 else 'FAILED'}, as its last start says"


def merged_logs(run: Path, num_lines: int, rank: int | None) -> list[str]:
    """The newest job's logs: the error of the rank that failed first on top, then each rank's last lines."""
    one = _submissions(run)[-1]
    folder = run / "slurm" / one.folder
    if rank is not None:
        if not 0 <= rank < one.num_ranks:
            raise ConfigError(f"--rank {rank}: the job has ranks 0 to {one.num_ranks - 1}")
        return [line for kind in ("out", "err") for line in _tail(folder / f"{one.job}_{rank}_log.{kind}", None)]
    lines: list[str] = []
    known = starts(folder)
    if known and (first := known[-1].first_error()):
        lines += [first, ""]
    for number in range(one.num_ranks):
        for kind in ("out", "err"):
            if said := _tail(folder / f"{one.job}_{number}_log.{kind}", num_lines):
                lines += [f"rank {number}, {one.job}_{number}_log.{kind}:", *(f"  {line}" for line in said), ""]
    if not lines:
        raise ConfigError(f"job {one.job} has not said anything yet: {controller.states([one.job])[one.job]}")
    return lines


def _tail(path: Path, num_lines: int | None) -> list[str]:
    try:
        lines = path.read_text(errors="replace").replace("\r", "\n").splitlines()
    except FileNotFoundError:
        return []
    return lines if num_lines is None else lines[-num_lines:]


@contextmanager
def watching(what: str) -> Iterator[None]:
    """Around whatever waits for jobs: Ctrl-C ends that, not them."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nerasediff: {what} goes on without being watched", file=sys.stderr)
        raise


def follow(run: Path, submission: Submission) -> int:
    """Prints a job's states and rank 0's log as they come; the command's exit status once the job has ended."""
    job, folder = submission.job, run / "slurm" / submission.folder
    logs = {folder / f"{job}_0_log.{kind}": 0 for kind in ("out", "err")}
    told, state = "", State("PENDING")
    while not state.has_ended:
        state = controller.states([job])[job]
        if str(state) != told:
            told = str(state)
            print(f"job {job}: {told}", flush=True)
        for path, shown in logs.items():
            logs[path] = _show(path, shown)
        if not state.has_ended:
            time.sleep(ASK_SECONDS)
    for path, shown in logs.items():
        _show(path, shown)
    return _final_status(run, submission, state)


def _show(path: Path, shown: int) -> int:
    """Prints what a log has grown by; how long it is."""
    try:
        with path.open("rb") as file:
            file.seek(shown)
            more = file.read()
    except FileNotFoundError:
        return shown
    if more:
        sys.stdout.write(more.decode(errors="replace"))
        sys.stdout.flush()
    return shown + len(more)


def _final_status(run: Path, submission: Submission, state: State) -> int:
    folder = run / "slurm" / submission.folder
    deadline = time.monotonic() + LAG_SECONDS
    while True:
        known = starts(folder)
        end = known[-1].end() if known else None
        has_said = end is not None and not end.is_requeued
        if has_said or state.name in ("CANCELLED", "TIMEOUT", "UNKNOWN") or time.monotonic() > deadline:
            break
        if not known and state.name == "FAILED":
            break
        time.sleep(0.5)
    if end is not None and not end.is_requeued:
        if end.status:
            print(f"erasediff: job {submission.job}: {end.how}", file=sys.stderr)
        return end.status
    print(f"erasediff: job {submission.job} ended as {state}; erasediff launch logs {run} says more", file=sys.stderr)
    return 1
