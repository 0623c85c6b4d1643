"""`erasediff pretrain` and `erasediff scrub`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..trainer.config import PretrainConfig, ScrubConfig
from ..trainer.config.methods import method_names
from ..trainer.ranks import meeting
from .options import DRY_RUN, METHODS, check_datasets, print_once, read_settings, without_flag

ALREADY = ", finished before: nothing was done again"


@dataclass(frozen=True)
class Pretrain:
    config: PretrainConfig
    dry_run: bool

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Pretrain:
        words, dry_run = without_flag(words, "--dry-run")
        return cls(read_settings(PretrainConfig, words, prog=prog, note=DRY_RUN), dry_run)

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
        check_datasets(self.datasets)
        with meeting.on_signals():
            from ..trainer.pretrain import dry_run, run_pretrain
            from ..trainer.ranks.collectives import is_main, leaving_together
            from ..trainer.run.folder import is_finished

            if self.dry_run:
                print_once(dry_run(self.config))
                return
            with leaving_together():
                was_finished = is_finished(self.folder)
                model = run_pretrain(self.config)
                if is_main():
                    print(f"model: {model}{ALREADY if was_finished else ''}")


@dataclass(frozen=True)
class Scrub:
    config: ScrubConfig
    dry_run: bool

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Scrub:
        words, dry_run = without_flag(words, "--dry-run")
        note = f"{METHODS.format('|'.join(method_names()))}\n{DRY_RUN}"
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
        check_datasets(self.datasets)
        with meeting.on_signals():
            from ..trainer.ranks.collectives import is_main, leaving_together
            from ..trainer.run.folder import is_finished
            from ..trainer.scrubbing import dry_run, run_scrub

            if self.dry_run:
                print_once(dry_run(self.config))
                return
            with leaving_together():
                was_finished = is_finished(self.folder)
                model = run_scrub(self.config)
                if is_main():
                    print(f"model: {model}{ALREADY if was_finished else ''}")
