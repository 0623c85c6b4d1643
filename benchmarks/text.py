"""How well is a word forgotten, by layers, reading and target? A row each; resumable: a row that is there stays.

    erasediff demo --text --output build/text-benchmark/demo
    python benchmarks/text.py                       runs what is missing, then writes docs/results/text.md
    python benchmarks/text.py --table-only          only writes the table of what is there

The word is the demo's `three`, the model, the judges and the prompts are the demo's. Every model is judged on 180
samples of the forgotten class and 60 of each other, from one sampling seed; seeds are the scrub's.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from erasediff.shards.sources.digits_in_ink import DIGITS
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import (
    EngineConfig,
    EvaluateConfig,
    JudgeConfig,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    ScrubConfig,
    TrainConfig,
)
from erasediff.trainer.errors import TrainingError
from erasediff.trainer.evidence.bench import Bench, Samples
from erasediff.trainer.evidence.evaluation import evaluate
from erasediff.trainer.evidence.finished import FinishedScrub, run_entry
from erasediff.trainer.evidence.making import make_bench
from erasediff.trainer.files import write_json
from erasediff.trainer.models.families import load_model
from erasediff.trainer.ranks import collectives
from erasediff.trainer.run.provenance import now, versions
from erasediff.trainer.scrubbing import run_scrub
from rows import write_tables

ENGINE = EngineConfig(device="cpu", num_threads=1)
CONCEPT = "three"
# learning rates at which each set of layers was found to forget in 100 steps
LAYERS = {"full": 1e-4, "xattn": 5e-4, "noxattn": 1e-4}
READINGS = {
    "envelope": EraseDiffConfig(),
    "value, K = 1": EraseDiffConfig(barrier="value", xi=1e-2, num_inner_steps=1),
    "value, K = 3": EraseDiffConfig(barrier="value", xi=1e-2, num_inner_steps=3),
    "first order, K = 1": EraseDiffConfig(gradient_of_g="first_order", xi=1e-2, num_inner_steps=1, lambda_cap=None),
    "first order, K = 3": EraseDiffConfig(gradient_of_g="first_order", xi=1e-2, num_inner_steps=3, lambda_cap=None),
}
OTHERS = tuple(word for word in DIGITS if word != CONCEPT)
TARGETS: dict[str, dict[str, Any]] = {
    "any other word": {"concept": (CONCEPT,), "anchor": OTHERS},
    "'four'": {"concept": (CONCEPT,), "anchor": "four"},
    "null prompt": {"anchor": ""},
}


@dataclass(frozen=True)
class Options:
    """Which rows, and where."""

    output: Path = Path("build/text-benchmark")
    """Folder for models and rows; demo/ in it is the demo's."""
    table: Path = Path("docs/results/text.md")
    """The table to write."""
    seeds: tuple[int, ...] = (0,)
    """Of the scrub."""
    only: tuple[str, ...] = ()
    """Rows whose name holds the words of one of these; none given: all."""
    table_only: bool = False
    """Run nothing."""


@dataclass(frozen=True)
class Case:
    """A row."""

    layers: str
    reading: str
    target: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.layers} | {self.reading} | {self.target}"

    @property
    def file(self) -> str:
        kept = "".join(letter if letter.isalnum() else "-" for letter in self.name)
        return f"{kept}-{self.seed}"

    def config(self, options: Options) -> ScrubConfig:
        demo = options.output / "demo"
        return ScrubConfig(
            model=ModelConfig(path=str(demo / "base" / "model")),
            forget=str(demo / "erased" / "split" / "forget"),
            remain=str(demo / "erased" / "split" / "remain"),
            output=str(options.output / "runs" / self.file),
            method=dataclasses.replace(READINGS[self.reading], **TARGETS[self.target]),
            train=TrainConfig(seed=self.seed, layers=(self.layers,), max_loss_r_ratio=None),
            optimizer=OptimizerConfig(learning_rate=LAYERS[self.layers]),
            engine=ENGINE,
        )


def cases(options: Options) -> Iterator[Case]:
    """The first seed of everything before the second of anything."""
    for seed in options.seeds:
        for target in TARGETS:
            for layers in LAYERS:
                for reading in READINGS:
                    case = Case(layers, reading, target, seed)
                    if not options.only or any(f" {part} " in f" {case.name} " for part in options.only):
                        yield case


class Judging:
    """What all rows share: the judges, the prompts, and the original model's samples."""

    def __init__(self, options: Options):
        self._options = options
        self._shared: tuple[Bench, Samples] | None = None

    def row_path(self, file: str) -> Path:
        return self._options.output / "rows" / f"{file}.json"

    def run(self, case: Case) -> None:
        """Scrubs, evaluates and writes the row; a run that ends early has a row that says so."""
        config = case.config(self._options)
        try:
            model = run_scrub(config)
        except TrainingError as error:
            self._write(case.file, case.name, case.seed, {}, {"ended": str(error)})
            return
        bench, original = self._bench(Path(config.output))
        figures = evaluate(load_model(ModelConfig(str(model))), bench, original)
        run = run_entry(Path(config.output))
        self._write(
            case.file, case.name, case.seed, figures.metrics, {"capped": run.capped_steps, "steps": run.num_steps}
        )

    def _bench(self, run: Path) -> tuple[Bench, Samples]:
        if self._shared is None:
            demo = self._options.output / "demo"
            judge = JudgeConfig(
                classifier=str(demo / "data.safetensors"),
                factor=str(demo / "other"),
                factor_classifier=str(demo / "other.safetensors"),
                prompts=str(demo / "prompts.csv"),
                num_forget_samples_per_class=180,
                num_remain_samples_per_class=60,
                sampling=SamplingConfig(guidance_scale=2.5, num_inference_steps=15),
                device="cpu",
            )
            config = EvaluateConfig(run=str(run), data=str(demo / "data"), judge=judge)
            bench = make_bench(config, FinishedScrub.open(run), torch.device("cpu"))
            original = evaluate(load_model(ModelConfig(str(demo / "base" / "model"))), bench)
            self._write("unscrubbed", "unscrubbed | | ", 0, original.metrics, {})
            retrained = load_model(ModelConfig(str(demo / "retrained" / "model")))
            self._write("retrained", "retrained | | ", 0, evaluate(retrained, bench, original.samples).metrics, {})
            self._shared = bench, original.samples
        return self._shared

    def _write(self, file: str, name: str, seed: int, metrics: dict[str, Any], about: dict[str, Any]) -> None:
        row = {"name": name, "seed": seed, "date": now(), "versions": versions()} | about
        row["metrics"] = {key: dataclasses.asdict(value) for key, value in metrics.items()}
        self.row_path(file).parent.mkdir(parents=True, exist_ok=True)
        write_json(self.row_path(file), row)


COLUMNS = {
    "p_psi": "P_psi ↓",
    "p_psi_worst_phrasing": "worst phrasing ↓",
    "factor_accuracy_forgotten": "its colour ↑",
    "accuracy_remaining": "IRA ↑",
    "accuracy_worst_class": "worst digit ↑",
    "factor_accuracy_remaining": "CRA ↑",
    "frechet_distance[digits-in-ink-cnn]": "FD[digits-in-ink-cnn] ↓",
    "integrity_remaining[digits-in-ink-cnn]": "change of the rest ↓",
}


def table(options: Options) -> str:
    """Mean ± standard deviation over seeds; what was not run is named."""
    rows = [json.loads(path.read_text()) for path in sorted((options.output / "rows").glob("*.json"))]
    lines = ["| layers | reading | target | seeds | " + " | ".join(COLUMNS.values()) + " | capped |"]
    lines.append("|---|---|---|---|" + "---|" * (len(COLUMNS) + 1))
    missing = []
    names = [f"{layers} | {reading} | {target}" for target in TARGETS for layers in LAYERS for reading in READINGS]
    for name in ["unscrubbed | | ", "retrained | | ", *names]:
        found = [row for row in rows if row["name"] == name]
        whole = [row for row in found if row["metrics"]]
        if not found:
            missing.append(name.replace(" | ", ", "))
            continue
        if not whole:
            lines.append(f"| {name} | {len(found)} | ended early: {found[0]['ended']}" + " |" * (len(COLUMNS) + 1))
            continue
        cells = [_spread([row["metrics"][metric]["value"] for row in whole]) for metric in COLUMNS]
        capped = "–"
        if "capped" in whole[0]:
            capped = f"{100 * statistics.mean(row['capped'] / row['steps'] for row in whole):.0f} %"
        lines.append(f"| {name} | {len(whole)} | " + " | ".join(cells) + f" | {capped} |")
    if missing:
        lines += ["\n## Rows that are missing\n", *(f"- {line}" for line in missing)]
    return "\n".join(lines)


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.3f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.3f}"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if not options.table_only:
        if not (options.output / "demo" / "retrained" / "model").exists():
            sys.exit(
                f"{options.output / 'demo'} holds no demo: erasediff demo --text --output {options.output / 'demo'}"
            )
        collectives.set_up(ENGINE)
        judging = Judging(options)
        for case in cases(options):
            if not judging.row_path(case.file).exists():
                judging.run(case)
    write_tables(options.table, __file__, table(options))


if __name__ == "__main__":
    main()
