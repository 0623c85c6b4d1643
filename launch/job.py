"""What is launched, wherever it runs: a command, the folder for what a launcher writes about it, and its ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..trainer.errors import ConfigError
from .bench import Bench
from .compare import Ablate, Compare
from .concept import Generate
from .doctor.command import Doctor
from .erase import Erase
from .evaluate import Evaluate, Sample
from .train import Pretrain, Scrub


class RankedCommand(Protocol):
    """A command that all ranks of a job run together."""

    @property
    def config(self) -> Any: ...

    @property
    def folder(self) -> Path:
        """Where a launcher keeps logs and what else it writes."""
        ...

    @property
    def datasets(self) -> list[str]:
        """Folders of the datasets that the run reads sample by sample."""
        ...

    def check(self) -> None:
        """Raises what the run itself would refuse, devices aside: they are another machine's. Writes nothing."""
        ...


COMMANDS: dict[str, Any] = {
    "scrub": Scrub,
    "pretrain": Pretrain,
    "erase": Erase,
    "evaluate": Evaluate,
    "sample": Sample,
    "concept generate": Generate,
    "bench": Bench,
    "compare": Compare,
    "ablate": Ablate,
    "doctor": Doctor,
}


@dataclass(frozen=True)
class Resources:
    """What a launcher gives a job."""

    nodes: int
    ranks_per_node: int

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class Job:
    """One command on many processes."""

    words: tuple[str, ...]
    """As on the command line, without `erasediff`."""
    read: RankedCommand
    """What they say."""
    resources: Resources

    @classmethod
    def of(cls, words: Sequence[str], resources: Resources, prog: str) -> Job:
        """Raises ConfigError for options that the command itself would refuse; nothing is loaded."""
        command = _named(words, 0) or words[0]
        rest = words[len(command.split()) :]
        if "--dry-run" in rest:
            raise ConfigError(f"--dry-run needs one process: erasediff {command} --dry-run")
        return cls(tuple(words), COMMANDS[command].read(rest, prog=f"{prog} {command}"), resources)

    @property
    def command(self) -> str:
        return _named(self.words, 0) or self.words[0]

    @property
    def config(self) -> Any:
        return self.read.config

    @property
    def folder(self) -> Path:
        return self.read.folder

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of Python, on every rank."""
        return ("-m", "erasediff.launch", *self.words)


def split_words(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The launcher's own words, and those from the command's name on."""
    at = next((i for i in range(len(words)) if _named(words, i)), len(words))
    return words[:at], words[at:]


def _named(words: Sequence[str], at: int) -> str | None:
    """The command whose name begins there, of one word or of two."""
    return next((name for name in (words[at], " ".join(words[at : at + 2])) if name in COMMANDS), None)
