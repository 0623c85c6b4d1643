"""What is launched, wherever it runs: a command's words, the folder it writes to, and on how many ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..trainer.errors import ConfigError
from .doctor.command import Doctor
from .erase import Erase
from .train import Pretrain, Scrub

# commands that all ranks of a job run together
COMMANDS = {"scrub": Scrub, "pretrain": Pretrain, "erase": Erase, "doctor": Doctor}


@dataclass(frozen=True)
class Job:
    """One command on `num_ranks` processes."""

    words: tuple[str, ...]
    """As on the command line, without `erasediff`."""
    output: Path
    """The command's; logs lie in logs/ there."""
    num_ranks: int

    @classmethod
    def read(cls, words: Sequence[str], num_ranks: int, prog: str) -> Job:
        """Raises ConfigError for options that the command itself would refuse; nothing is loaded."""
        command, *rest = words
        if "--dry-run" in rest:
            raise ConfigError(f"--dry-run needs one process: erasediff {command} --dry-run")
        config = COMMANDS[command].read(rest, prog=f"{prog} {command}").config
        return cls(tuple(words), Path(config.output), num_ranks)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of Python, on every rank."""
        return ("-m", "erasediff.launch", *self.words)


def split_words(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The launcher's own words, and those from the command's name on."""
    at = next((i for i, word in enumerate(words) if word in COMMANDS), len(words))
    return words[:at], words[at:]
