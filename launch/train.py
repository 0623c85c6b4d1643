"""`erasediff pretrain` and `erasediff scrub`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..trainer.config import PretrainConfig, ScrubConfig
from ..trainer.config.methods import method_names
from ..trainer.ranks import meeting
from .options import read_settings


@dataclass(frozen=True)
class Pretrain:
    config: PretrainConfig

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Pretrain:
        return cls(read_settings(PretrainConfig, words, prog=prog))

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def datasets(self) -> list[str]:
        return [self.config.data]

    def check(self) -> None:
        from ..trainer.pretrain import check

        check(self.config)

    def run(self) -> None:
        with meeting.on_signals():
            from ..trainer.pretrain import run_pretrain
            from ..trainer.ranks.collectives import is_main, leaving_together

            with leaving_together():
                model = run_pretrain(self.config)
                if is_main():
                    print(f"model: {model}")


@dataclass(frozen=True)
class Scrub:
    config: ScrubConfig
    dry_run: bool

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Scrub:
        words = list(words)
        dry_run = "--dry-run" in words
        if dry_run:
            words.remove("--dry-run")
        note = (
            f"--method.name {'|'.join(method_names())} chooses the method, and with it the method options below.\n"
            "--dry-run prints the resolved settings and what would happen, and stops."
        )
        return cls(read_settings(ScrubConfig, words, prog=prog, note=note), dry_run)

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def datasets(self) -> list[str]:
        return [self.config.forget, self.config.remain]

    def check(self) -> None:
        from ..trainer.scrubbing import check

        check(self.config)

    def run(self) -> None:
        with meeting.on_signals():
            from ..trainer.ranks.collectives import is_main, leaving_together
            from ..trainer.scrubbing import dry_run, run_scrub

            if self.dry_run:
                said = dry_run(self.config)
                if os.environ.get("RANK", "0") == "0":
                    print(said)
                return
            with leaving_together():
                model = run_scrub(self.config)
                if is_main():
                    print(f"model: {model}")
