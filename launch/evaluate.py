"""`erasediff sample` and `erasediff evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..trainer.config import EvaluateConfig, SampleConfig
from ..trainer.errors import ConfigError
from ..trainer.ranks import meeting
from .options import DRY_RUN, check_datasets, is_alone, print_once, read_settings, without_flag


@dataclass(frozen=True)
class Sample:
    config: SampleConfig

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Sample:
        return cls(read_settings(SampleConfig, words, prog=prog))

    @property
    def folder(self) -> Path:
        picture = Path(self.config.output)
        return picture.with_name(f"{picture.stem}-run")

    @property
    def datasets(self) -> list[str]:
        return []

    def check(self) -> None:
        from ..trainer.sample import check

        check(self.config)

    def run(self) -> None:
        self.config.check_output()
        with meeting.on_signals():
            from ..trainer.ranks.collectives import is_main, leaving_together
            from ..trainer.sample import run_sample

            with leaving_together():
                picture = run_sample(self.config)
                if is_main():
                    print(f"picture: {picture}")


@dataclass(frozen=True)
class Evaluate:
    config: EvaluateConfig
    dry_run: bool

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Evaluate:
        words, dry_run = without_flag(words, "--dry-run")
        return cls(read_settings(EvaluateConfig, words, prog=prog, note=DRY_RUN), dry_run)

    @property
    def folder(self) -> Path:
        return Path(self.config.run)

    @property
    def datasets(self) -> list[str]:
        return [self.config.data]

    def check(self) -> None:
        from ..trainer.evidence.collect import check

        check(self.config)

    def run(self) -> None:
        check_datasets(self.datasets)
        if is_alone() and not self.folder.is_dir():
            raise ConfigError(f"run = '{self.folder}' is no run folder: name one that scrub or erase has written")
        with meeting.on_signals():
            from ..trainer.evidence.collect import run_evaluate
            from ..trainer.evidence.dry_run import dry_run
            from ..trainer.ranks.collectives import is_main, leaving_together
            from .evidence_table import show

            if self.dry_run:
                print_once(dry_run(self.config))
                return
            with leaving_together():
                evidence = run_evaluate(self.config)
                if is_main():
                    show(evidence)
                evidence.require_shown()
