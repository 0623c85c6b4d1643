"""`erasediff demo`: the whole story on real digits, from images to a model that has forgotten one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import tyro

from ..trainer.config import DemoConfig

Result = TypeVar("Result")


@dataclass(frozen=True)
class Demo:
    config: DemoConfig

    @classmethod
    def read(cls, words: list[str], prog: str) -> Demo:
        return cls(tyro.cli(DemoConfig, args=words, prog=prog))

    def run(self) -> None:
        start = time.perf_counter()
        folder, digit = Path(self.config.output), self.config.forget_label
        print(
            "erasediff demo: train a diffusion model on 1,797 real handwritten digits, then make it forget "
            f"the {digit}.\n"
            f"About a minute and a half on 2 cores, 20 MB in {folder}/; run it again to continue where it stopped.\n",
            flush=True,
        )
        from ..shards.build import build
        from ..shards.split import split
        from ..trainer.config import EvaluateConfig, ModelConfig, PretrainConfig, ScrubConfig
        from ..trainer.evidence import run_evaluate
        from ..trainer.pretrain import run_pretrain
        from ..trainer.scrubbing import run_scrub
        from .evidence_table import show

        data, sets = folder / "data", folder / "split"
        if not data.exists():
            _timed("build the dataset", lambda: build("digits", data))
        if not sets.exists():
            _timed(f"split off the {digit}s", lambda: split(data, sets, [str(digit)]))
        base = _timed(
            "train the model", lambda: run_pretrain(PretrainConfig(data=str(data), output=str(folder / "base")))
        )
        config = ScrubConfig(
            model=ModelConfig(path=str(base), null_class=10),
            forget=str(sets / "forget"),
            remain=str(sets / "remain"),
            output=str(folder / "scrub"),
        )
        _timed(f"erase the {digit}", lambda: run_scrub(config))
        evidence = _timed("evaluate", lambda: run_evaluate(EvaluateConfig(run=config.output, data=str(data))))
        show(evidence)
        print(
            f"\nscrubbed model    {folder}/scrub/model, loads with diffusers alone (its README.md shows how)\n"
            f"total             {time.perf_counter() - start:.0f} s\n"
            f"your own model    erasediff scrub run.toml (README.md, 'Scrub your own model')"
        )


def _timed(what: str, do: Callable[[], Result]) -> Result:
    start = time.perf_counter()
    print(f"{what} …", flush=True)
    result = do()
    print(f"{what}: {time.perf_counter() - start:.1f} s\n", flush=True)
    return result
