"""What SLURM says of jobs. The controller is asked first: it knows them without accounting, also for a while after."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from ...trainer.errors import ConfigError

ENDED = frozenset(
    {
        *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY"),
        *("BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REVOKED"),
    }
)
# SLURM's commands give up by themselves, most of the time
_PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class State:
    """Of one job."""

    name: str
    """SLURM's word: PENDING, RUNNING, COMPLETED, …; UNKNOWN where SLURM has forgotten the job, UNREACHABLE where nobody
    answers."""
    reason: str = ""
    """Why it waits, or has failed."""
    nodes: str = ""
    restarts: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it: what SLURM has forgotten has ended, of what nobody knows it may not."""
        return self.name in ENDED or self.name == "UNKNOWN"

    @property
    def is_known(self) -> bool:
        return self.name not in ("UNKNOWN", "UNREACHABLE")

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"{self.name}{reason}{f' on {self.nodes}' if self.nodes and not self.has_ended else ''}"


def require() -> None:
    """Raises ConfigError where there is no SLURM to ask."""
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "no sbatch here: this machine is not a SLURM cluster's; --dry-run shows the script, "
            "and `erasediff launch local` runs the command here"
        )


def states(jobs: Sequence[str]) -> dict[str, State]:
    """Of each job, an array's elements too. Once nobody answers, nobody is asked any more."""
    found: dict[str, State] = {}
    for job in jobs:
        is_away = any(state.name == "UNREACHABLE" for state in found.values())
        found[job] = State("UNREACHABLE") if is_away else _state(job)
    return found


def alive(jobs: Sequence[str]) -> dict[str, State]:
    """Those that wait or run. Raises ConfigError where SLURM does not answer: what is alive is not known then."""
    found = states(jobs)
    if any(state.name == "UNREACHABLE" for state in found.values()):
        raise ConfigError("SLURM's controller does not answer (scontrol show job): try again later")
    return {job: state for job, state in found.items() if not state.has_ended}


def _state(job: str) -> State:
    asked = _ask_controller(job)
    if asked.is_known:
        return asked
    return _ask_accounting(job) or asked


def _ask_controller(job: str) -> State:
    """By scontrol, which knows how a job that has ended left, and how often it has started again."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True, timeout=_PATIENCE_SECONDS
        )
    except FileNotFoundError:  # no cluster's machine
        return State("UNKNOWN")
    except subprocess.TimeoutExpired:
        return State("UNREACHABLE")
    if done.returncode:
        # the latter of an array's element that it has forgotten while it knows others
        forgotten = "Invalid job id" in done.stderr or f"Job {job} not found" in done.stdout
        return State("UNKNOWN" if forgotten else "UNREACHABLE")
    fields = dict(word.split("=", 1) for word in done.stdout.splitlines()[0].split() if "=" in word)
    nodes = fields.get("NodeList", "")
    reason = fields.get("Reason", "")
    if fields.get("ExitCode", "0:0") == "0:53":  # slurmd's own: it could not open the log
        reason = "a node cannot write in the run's folder: is it on a file system that all nodes share?"
    return State(fields["JobState"], reason, "" if nodes == "(null)" else nodes, int(fields.get("Restarts", "0")))


def _ask_accounting(job: str) -> State | None:
    """None without accounting, or where that does not know the job either."""
    asked = ["sacct", "-X", "-n", "-P", "-o", "State,NodeList", "-j", job]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True).stdout
    except (FileNotFoundError, subprocess.SubprocessError):
        return None
    if not said.strip():
        return None
    name, _, nodes = said.strip().splitlines()[-1].partition("|")
    return State(name.split()[0], nodes=nodes)


def cancel(job: str) -> None:
    """Raises ConfigError where SLURM does not do it."""
    done = subprocess.run(["scancel", job], capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"job {job}: {done.stderr.strip()}")
