"""`erasediff launch slurm`: a command, submitted."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...trainer.errors import ConfigError
from ..job import Job, Resources, split_words
from ..options import read_settings
from . import controller
from .delay import signal_delay
from .folder import Submission, note_submission, submissions
from .profile import Profile
from .task import Task

_USAGE = "[--profile FILE.toml] [OPTIONS] COMMAND …"
_NOTE = """\
--dry-run prints the script that sbatch would get. --wait follows the job until it ends, and leaves with its status."""
# words that count wherever they stand
_FLAGS = ("--dry-run", "--wait")


@dataclass(frozen=True)
class Slurm:
    job: Job
    profile: Profile
    dry_run: bool
    wait: bool

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Slurm:
        words = list(words)
        file, words = taken(words, "--profile")
        flags = {flag: flag in words for flag in _FLAGS}
        ours, command = split_words([word for word in words if word not in _FLAGS])
        profile = read_profile(file, ours, prog)
        if not command:
            raise ConfigError(f"{prog}: name the command to submit: {prog} --profile cluster.toml scrub run.toml")
        job = Job.of(command, Resources(profile.nodes, profile.ranks_per_node), prog)
        return cls(job, profile, flags["--dry-run"], flags["--wait"])

    def run(self) -> None:
        """Submits; with --wait leaves through SystemExit with the command's exit status."""
        if not self.dry_run:
            controller.require()
        job = check(self.job, self.profile)
        if self.dry_run:
            print(script(job, self.profile), end="")
            return
        submission = submit(job, self.profile)
        print(f"job {submission.job}: {job.command} on {job.resources.num_ranks} ranks; {_follow_up(job.folder)}")
        if self.wait:
            from .watch import follow

            try:
                status = follow(job.folder, submission)
            except KeyboardInterrupt:
                print(f"\nerasediff: job {submission.job} goes on without being watched", file=sys.stderr)
                raise
            if status:
                sys.exit(status)


def taken(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """An option's value, wherever it stands, and the words without it."""
    left: list[str] = []
    value, rest = None, iter(words)
    for word in rest:
        if word == option:
            value = next(rest, None)
            if value is None:
                raise ConfigError(f"{option} needs a value")
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
        else:
            left.append(word)
    return value, left


def read_profile(file: str | None, words: Sequence[str], prog: str) -> Profile:
    """Raises ConfigError for a file or options that cannot work."""
    given = [] if file is None else [file]
    profile = read_settings(Profile, [*given, *words], prog=prog, note=_NOTE, usage=_USAGE)
    profile.check()
    return profile


def check(job: Job, profile: Profile) -> Job:
    """The job with its Hub ids pinned. Raises ConfigError or DataError for what the run would refuse, or SLURM."""
    from .snapshot import pinned

    folder = job.folder.absolute()
    device = getattr(getattr(job.config, "engine", job.config), "device", None)
    if device == "cuda" and not profile.has_gpus:
        raise ConfigError("device = 'cuda', and the profile asks for no GPU: set gpus_per_node")
    if profile.has_gpus and device == "cpu":
        raise ConfigError("device = 'cpu', and the profile asks for GPUs: leave them out")
    if profile.doctor and job.command not in ("scrub", "pretrain", "erase"):
        raise ConfigError(f"doctor looks at runs of scrub, pretrain and erase, not at {job.command}: leave it out")
    _check_writable(folder)
    for earlier in submissions(folder):
        state = controller.states([earlier.job])[earlier.job]
        if profile.dependency is None and state.is_known and not state.has_ended:
            raise ConfigError(
                f"job {earlier.job} works on this run: {state}; wait for it, or end it with "
                f"erasediff launch cancel {job.folder}"
            )
    signal_delay(profile, folder)
    if profile.dependency is None:
        job.read.check()
    config = pinned(job.config)
    return dataclasses.replace(job, read=dataclasses.replace(job.read, config=config))  # pyright: ignore


def _check_writable(folder: Path) -> None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"output = '{folder}': '{there}' is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"output = '{folder}': '{there}' may not be written")


def script(job: Job, profile: Profile) -> str:
    """What sbatch would get; nothing is written."""
    from .script import executor
    from .snapshot import code_path

    folder = job.folder.absolute()
    code, delay = code_path(folder / "slurm"), signal_delay(profile, folder)
    return executor(profile, folder, name=_name(job), code=code, signal_delay_s=delay).text()


def submit(job: Job, profile: Profile) -> Submission:
    """Writes what the job needs into its folder and hands it to SLURM. Raises ConfigError where SLURM refuses it."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    from ...trainer.run.provenance import now
    from .script import executor
    from .snapshot import code_path, keep_code, keep_config

    folder = job.folder.absolute()
    slurm = folder / "slurm"
    delay = signal_delay(profile, folder)
    made = executor(profile, folder, name=_name(job), code=code_path(slurm), signal_delay_s=delay)
    made.check()
    try:
        words = keep_config(slurm, job)
        keep_code(slurm)
        with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats what sbatch says
            submitted = made.submit(task(words, slurm, folder, profile))
    except (FailedJobError, FailedSubmissionError) as error:
        raise ConfigError(f"SLURM refuses the job: {refusal(str(error))}") from None
    except OSError as error:
        raise ConfigError(f"output = '{job.folder}': {error.strerror}") from None
    noted = Submission(
        job=submitted.job_id,
        folder=submitted.job_id,
        date=now(),
        command=job.command,
        num_nodes=profile.nodes,
        num_ranks=profile.num_ranks,
    )
    note_submission(folder, noted)
    return noted


def task(words: tuple[str, ...], slurm: Path, run: Path, profile: Profile) -> Task:
    """What the ranks run. slurm: the folder of the jobs' folders; run: the run's own."""
    return Task(words, str(slurm), str(run), profile.cache_dir, profile.stage_to, profile.doctor)


def refusal(error: str) -> str:
    """sbatch's own words."""
    said = re.findall(r"^(?:sbatch: )?error: (.*)$", error, re.MULTILINE) or error.strip().splitlines()[-1:]
    return "; ".join(line.strip() for line in said)


def _name(job: Job) -> str:
    return f"{job.command}-{job.folder.name}"


def _follow_up(folder: Path) -> str:
    return f"erasediff launch status|logs|cancel {folder}"
