"""Jobs made ready below a folder and handed to SLURM together: one alone, or several as an array."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError

from ...trainer.errors import ConfigError
from ...trainer.run.provenance import now
from ..job import Job
from .delay import signal_delay
from .folder import Submission, note_submission
from .profile import Profile
from .script import Executor, by_the_profile_alone, executor
from .snapshot import code_path, keep_code, keep_config
from .task import Task, request_of


@dataclass(frozen=True)
class Batch:
    folder: Path
    """Of the run, or of the sweep whose runs are below it."""
    jobs: Mapping[str, Job]
    """By their names in a sweep; a run alone has none."""
    profile: Profile
    name: str
    """As SLURM lists it."""
    parallel: int = 1
    """So many of the jobs at a time."""

    def script(self) -> str:
        """What sbatch would get; nothing is written."""
        made = self._executor()
        if len(self.jobs) > 1:
            made.parameters["map_count"] = len(self.jobs)  # as submitit does for an array
        return made.text()

    def submit(self) -> list[Submission]:
        """Writes what the jobs need and hands them in. Raises ConfigError where SLURM refuses them."""
        made, slurm = self._executor(), self._slurm
        made.check()
        try:
            keep_code(slurm)
            tasks = []
            for job in self.jobs.values():
                words = keep_config(job.folder.absolute() / "slurm", job)
                asked = self.profile
                request = request_of(getattr(job.config, "request", None))
                tasks.append(Task(words, str(slurm), asked.cache_dir, asked.stage_to, asked.doctor, request))
            # submitit repeats what sbatch says
            with contextlib.redirect_stderr(io.StringIO()), by_the_profile_alone(), made.batch():
                handles = [made.submit(task) for task in tasks]
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(f"SLURM refuses the job: {refusal(str(error))}") from None
        except OSError as error:
            raise ConfigError(f"output = '{self.folder}': {error.strerror}") from None
        numbers = [handle.job_id for handle in handles]
        try:
            return [self._note(name, number) for name, number in zip(self.jobs, numbers, strict=True)]
        except OSError as error:
            first = numbers[0].partition("_")[0]
            raise ConfigError(
                f"output = '{self.folder}': {error.strerror}; SLURM has job {first} all the same: scancel {first} "
                "before you submit again"
            ) from None

    def _note(self, name: str, number: str) -> Submission:
        job = self.jobs[name]
        asked = self.profile
        noted = Submission(number, number, now(), job.command, asked.nodes, asked.num_ranks, name)
        note_submission(self.folder, noted)
        if name:  # the run's own folder answers by itself
            there = os.path.relpath(self._slurm / number, job.folder.absolute() / "slurm")
            note_submission(job.folder, dataclasses.replace(noted, folder=there))
        return noted

    def _executor(self) -> Executor:
        folder = self.folder.absolute()
        delay = max(signal_delay(self.profile, job.folder) for job in self.jobs.values())
        code = code_path(self._slurm)
        made = executor(self.profile, folder, name=self.name, code=code, signal_delay_s=delay)
        made.update_parameters(array_parallelism=self.parallel)
        return made

    @property
    def _slurm(self) -> Path:
        return self.folder.absolute() / "slurm"


def refusal(error: str) -> str:
    """sbatch's own words."""
    said = re.findall(r"^(?:sbatch: )?error: (.*)$", error, re.MULTILINE) or error.strip().splitlines()[-1:]
    return "; ".join(line.strip() for line in said)
