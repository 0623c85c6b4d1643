"""`erasediff concept generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..trainer.config import ConceptConfig
from ..trainer.ranks import meeting
from .options import DRY_RUN, print_once, read_settings, without_flag


@dataclass(frozen=True)
class Generate:
    config: ConceptConfig
    dry_run: bool

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Generate:
        words, dry_run = without_flag(words, "--dry-run")
        return cls(read_settings(ConceptConfig, words, prog=prog, note=DRY_RUN), dry_run)

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def datasets(self) -> list[str]:
        return []

    def check(self) -> None:
        from ..trainer.concepts.generate import check

        check(self.config)

    def run(self) -> None:
        with meeting.on_signals():
            from ..trainer.concepts.generate import SPLIT_NAME, dry_run, run_generate
            from ..trainer.ranks.collectives import is_main, leaving_together

            if self.dry_run:
                print_once(dry_run(self.config))
                return
            with leaving_together():
                output = run_generate(self.config)
                if is_main():
                    print(f"forget: {output / SPLIT_NAME / 'forget'}\nremain: {output / SPLIT_NAME / 'remain'}")
