"""`erasediff sample` and `erasediff evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..trainer.config import EvaluateConfig, SampleConfig
from .options import read_settings


@dataclass(frozen=True)
class Sample:
    config: SampleConfig

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Sample:
        return cls(read_settings(SampleConfig, words, prog=prog))

    def run(self) -> None:
        from ..trainer.sample import run_sample

        print(f"picture: {run_sample(self.config)}")


@dataclass(frozen=True)
class Evaluate:
    config: EvaluateConfig

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Evaluate:
        return cls(read_settings(EvaluateConfig, words, prog=prog))

    def run(self) -> None:
        from ..trainer.evidence.collect import run_evaluate
        from ..trainer.ranks.collectives import is_main
        from .evidence_table import show

        evidence = run_evaluate(self.config)
        if is_main():
            show(evidence)
        evidence.require_shown()
