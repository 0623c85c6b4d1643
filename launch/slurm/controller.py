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


@dataclass(frozen=True)
class State:
    """Of one job."""

    name: str
    """SLURM's word: PENDING, RUNNING, COMPLETED, …; UNKNOWN where SLURM has forgotten the job."""
    reason: str = ""
    """Why it waits, or has failed."""
    nodes: str = ""
    restarts: int = 0

    @property
    def has_ended(self) -> bool:
        return self.name in ENDED

    @property
    def is_known(self) -> bool:
        return self.name != "UNKNOWN"

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
    """Of each job, an array's elements too."""
    return {job: _ask_controller(job) or _ask_accounting(job) or State("UNKNOWN") for job in jobs}


def _ask_controller(job: str) -> State | None:
    """By scontrol, which knows how a job that has ended left, and how often it has started again."""
    said = _said("scontrol", "show", "job", "--oneliner", job)
    if said is None:
        return None
    fields = dict(word.split("=", 1) for word in said.splitlines()[0].split() if "=" in word)
    if "JobState" not in fields:
        return None
    nodes = fields.get("NodeList", "")
    reason = fields.get("Reason", "")
    if fields.get("ExitCode", "0:0") == "0:53":  # slurmd's own: it could not open the log
        reason = "a node cannot write in the run's folder: is it on a file system that all nodes share?"
    return State(fields["JobState"], reason, "" if nodes == "(null)" else nodes, int(fields.get("Restarts", "0")))


def _ask_accounting(job: str) -> State | None:
    said = _said("sacct", "-X", "-n", "-P", "-o", "State,NodeList", "-j", job)
    if not said or not said.strip():
        return None
    name, _, nodes = said.strip().splitlines()[-1].partition("|")
    return State(name.split()[0], nodes=nodes)


def cancel(job: str) -> None:
    """Raises ConfigError where SLURM does not do it."""
    done = subprocess.run(["scancel", job], capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"job {job}: {done.stderr.strip()}")


def _said(*command: str) -> str | None:
    """What a command prints; None where it fails, or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
