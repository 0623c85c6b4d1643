"""`erasediff launch slurm`: a command, submitted."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...trainer.errors import ConfigError
from ..job import Job, Resources, split_words
from ..options import read_settings
from . import controller
from .delay import signal_delay
from .folder import submissions
from .profile import Profile

if TYPE_CHECKING:
    from ...trainer.config import TrainConfig

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
        from .batch import Batch

        name = f"{job.command}-{job.folder.absolute().name}".replace(" ", "-")
        batch = Batch(job.folder, {"": job}, self.profile, name)
        if self.dry_run:
            print(batch.script(), end="")
            return
        (submission,) = batch.submit()
        print(f"job {submission.job}: {job.command} on {job.resources.num_ranks} ranks; {_follow_up(job.folder)}")
        if self.wait:
            from .watch import follow, watching

            with watching(f"job {submission.job}"):
                status = follow(job.folder, submission)
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
    _check_world(job)
    awaited = re.findall(r"\d+(?:_\d+)?", profile.dependency or "")
    earlier = [one.job for one in submissions(folder) if not {one.job, one.job.partition("_")[0]} & {*awaited}]
    for number, state in controller.alive(earlier).items():
        raise ConfigError(
            f"job {number} works on this run: {state}; wait for it, or end it with erasediff launch cancel {job.folder}"
        )
    signal_delay(profile, folder)
    config = job.config
    if profile.dependency is None:
        job.read.check()
        config = pinned(config)
    else:
        with contextlib.suppress(ConfigError):  # the model may be one that the other job makes
            config = pinned(config)
    return dataclasses.replace(job, read=dataclasses.replace(job.read, config=config))  # pyright: ignore


def _check_world(job: Job) -> None:
    """Every rank has samples in every batch: what a run carries, with weights of 0, is a waste of nodes."""
    num_ranks = job.resources.num_ranks
    for size in _batch_sizes(job.config):
        num_busy = -(-size // -(-size // num_ranks))  # each takes as many as the others, rounded up
        if num_busy < num_ranks:
            fits = f"at most {num_busy} ranks, or a batch of {num_ranks} or a multiple"
            raise ConfigError(
                f"train.train_batch_size = {size}: {num_ranks - num_busy} of {num_ranks} ranks would have no sample; "
                f"{fits}"
            )


def _batch_sizes(config: Any) -> list[int]:
    from ...trainer.comparing.cases import cases_of
    from ...trainer.config import CompareConfig

    if isinstance(config, CompareConfig):
        return sorted({case.config.train.train_batch_size for case in cases_of(config)})
    train: TrainConfig | None = getattr(config, "train", None)
    return [] if train is None else [train.train_batch_size]


def _check_writable(folder: Path) -> None:
    if "%" in str(folder) or "\\" in str(folder):
        raise ConfigError(
            f"output = '{folder}': SLURM takes % and \\ in a path for signs of its own: name another folder"
        )
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"output = '{folder}': '{there}' is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"output = '{folder}': '{there}' may not be written")


def _follow_up(folder: Path) -> str:
    return f"erasediff launch status|logs|cancel {folder}"
