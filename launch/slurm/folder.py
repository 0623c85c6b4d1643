"""What a run's folder holds of its jobs. Standard library alone: the batch script's own Python reads it, too.

OUTPUT/slurm/submissions.jsonl                a line a submission
OUTPUT/slurm/code-<hash>/                     the code that was submitted
OUTPUT/slurm/config-<hash>.toml               the settings that were submitted
OUTPUT/slurm/<job>/                           submitit's: the script, the submitted object, a log a rank
OUTPUT/slurm/<job>/start-0000/rank-00000.json how a rank of a start ended
OUTPUT/slurm/<job>/start-0000/rank-00000.error.json the error that it left with
OUTPUT/slurm/<job>/start-0000/end.json        how the start ended, and what followed
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SUBMISSIONS_NAME = "submissions.jsonl"
# finished; lost another rank; asked to stop
WITHOUT_ERROR = (0, 69, 75)
# where below a run's folder there may be attempts: its own, its stages', a comparison's runs'
STAGES = ("", "*/", "runs/*/")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")


@dataclass(frozen=True)
class Submission:
    """A line of submissions.jsonl."""

    job: str
    """SLURM's number, of an array's element 12_3."""
    folder: str
    """The job's, relative to the run's slurm/."""
    date: str
    command: str
    num_nodes: int
    num_ranks: int
    name: str = ""
    """Of a sweep's element."""


@dataclass(frozen=True)
class End:
    """end.json: how a start ended."""

    status: int
    """Of the command: see docs/operations.md."""
    how: str
    """In words, with the rank and host it is about."""
    kind: str
    """Two starts that end the same way have the same."""
    newest: str
    """What the run had to show: its newest checkpoint, what it had published."""
    is_requeued: bool
    date: str


class Start:
    """One start of a job: its first, or one after it was queued again."""

    def __init__(self, job_folder: Path, number: int):
        self.number = number
        self.folder = job_folder / f"start-{number:04d}"

    @classmethod
    def here(cls, folder: Path, environment: Mapping[str, str] = os.environ) -> Start:
        """The one that this process is a part of. folder: OUTPUT/slurm."""
        return cls(folder / job_id(environment), int(environment.get("SLURM_RESTART_COUNT", "0")))

    def rank_path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.json"

    def error_path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.error.json"

    def note_rank(self, rank: int, **values: Any) -> None:
        write(self.rank_path(rank), values)

    def ranks(self) -> dict[int, dict[str, Any]]:
        """What the ranks that could say so said at their ends, by rank."""
        found: dict[int, dict[str, Any]] = {}
        for kind in (
            ".error.json",
            ".json",
        ):  # who was ended by its watchdog, or killed meanwhile, left the first alone
            for path in sorted(self.folder.glob(f"rank-?????{kind}")):
                said = read(path)
                if said is not None and "status" in said:
                    found[int(path.name.removeprefix("rank-").removesuffix(kind))] = said
        return found

    def message(self, rank: int) -> str:
        """The error that a rank left with, empty where it has none to say."""
        said = read(self.error_path(rank)) or {}
        message = said.get("message", {})
        return str(message.get("message", "")) if isinstance(message, dict) else str(message)

    def first_error(self) -> str:
        """Of the ranks that failed, the one that did first, and what it said; empty where none failed."""
        failed = {rank: said for rank, said in self.ranks().items() if said["status"] not in WITHOUT_ERROR}
        if not failed:
            end = self.end()
            return "" if end is None or end.status in WITHOUT_ERROR else f"start {self.number}: {end.how}"
        rank = min(failed, key=lambda number: (failed[number]["time"], number))
        said = failed[rank]
        return f"rank {rank} on {said['host']} left with {said['status']}: {self.message(rank)}".rstrip(": ")

    def end(self) -> End | None:
        said = read(self.folder / "end.json")
        return None if said is None else End(**said)

    def note_end(self, end: End) -> None:
        write(self.folder / "end.json", asdict(end))


def job_id(environment: Mapping[str, str]) -> str:
    """Of the job that a process runs in, as submitit names its files."""
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment["SLURM_JOB_ID"]


def starts(job_folder: Path) -> list[Start]:
    """A job's starts that came as far as a rank of theirs, the first first."""
    numbers = sorted(int(path.name.removeprefix("start-")) for path in job_folder.glob("start-????"))
    return [Start(job_folder, number) for number in numbers]


def submissions(run: Path) -> list[Submission]:
    """Of a run's folder, the first first."""
    try:
        lines = (run / "slurm" / SUBMISSIONS_NAME).read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):  # torn by a full disk
            found.append(Submission(**json.loads(line)))
    return found


def note_submission(run: Path, submission: Submission) -> None:
    path = run / "slurm" / SUBMISSIONS_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(submission)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def run_of(folder: Path, job: str) -> Path:
    """The folder of the run that a job is for: of a sweep's element one below the folder it was submitted from."""
    return folder / next((one.name for one in submissions(folder) if one.job == job), "")


def newest(run: Path) -> tuple[int, str]:
    """The step of a run's newest published checkpoint, -1 without any, and all that the run has to show, in words.

    A run of stages (`erase`) has them one folder deeper, a comparison in runs/NAME/.
    """
    steps = [-1]
    shown = []
    for stage in STAGES:
        for manifest in run.glob(f"{stage}attempt-*/checkpoint-*/manifest.json"):
            if found := _CHECKPOINT.search(manifest.parent.name):
                steps.append(int(found[1]))
        for name in ("model", "record.json"):
            shown += [str(path.relative_to(run)) for path in run.glob(stage + name)]
    told = [f"step {max(steps)}"] if max(steps) >= 0 else []
    # a comparison's figures, and what a model has drawn for a request of words
    for pattern, what in (("rows/*.json", "rows"), ("images/*/*.png", "pictures"), ("*/images/*/*.png", "pictures")):
        if num := sum(1 for _ in run.glob(pattern)):
            told.append(f"{num} {what}")
    return max(steps), ", ".join([*told, *sorted(shown)]) or "nothing yet"


def write(path: Path, values: dict[str, Any]) -> None:
    """A file that is there only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n")
    partial.rename(path)


def read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
