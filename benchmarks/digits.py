"""How well is a digit forgotten, by method and seed? A row each; resumable, since a row that is there is not run again.

    python benchmarks/digits.py                       runs what is missing, then writes docs/results/digits.md
    python benchmarks/digits.py --table-only          only writes the table of what is there

Every model is judged by one classifier, on 500 samples of the forgotten class and 450 of the others, from one sampling
seed; seeds are the scrub's.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from erasediff.shards.requests.split import split
from erasediff.shards.writing.build import build
from erasediff.trainer import EraseDiffConfig, FinetuneConfig, MOOConfig
from erasediff.trainer.config import (
    EngineConfig,
    EvaluateConfig,
    JudgeConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    ScrubConfig,
    TrainConfig,
)
from erasediff.trainer.evidence.bench import Bench, Samples
from erasediff.trainer.evidence.evaluation import evaluate
from erasediff.trainer.evidence.finished import FinishedScrub, run_entry
from erasediff.trainer.evidence.making import make_bench
from erasediff.trainer.evidence.retrained import retrain
from erasediff.trainer.files import write_json
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.model import Model
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.ranks import collectives
from erasediff.trainer.run.provenance import now, versions
from erasediff.trainer.scrubbing import run_scrub
from rows import write_tables

NULL_CLASS = 10
ENGINE = EngineConfig(device="cpu", num_threads=1)


@dataclass(frozen=True)
class Recipe:
    """A method with the settings it is compared at."""

    method: MethodConfig
    num_steps: int = 100
    learning_rate: float = 1e-4


NOISE = EraseDiffConfig(target="noise", eta=1e-4)
RECIPES = {
    "erasediff rl": Recipe(EraseDiffConfig()),
    "erasediff noise": Recipe(NOISE, 150, 3e-4),
    # asked for the forgotten class, the model answers as if asked for none
    "rl, null class as anchor": Recipe(EraseDiffConfig(anchor=NULL_CLASS, lambda_cap=1.0), 150),
    "moo rl": Recipe(MOOConfig()),
    "finetune": Recipe(FinetuneConfig()),
    "rl, value": Recipe(EraseDiffConfig(barrier="value", xi=1e-2, num_inner_steps=3)),
    "rl, first order": Recipe(EraseDiffConfig(gradient_of_g="first_order", xi=1e-2, lambda_cap=None)),
    "noise, value": Recipe(dataclasses.replace(NOISE, barrier="value", eta=0.5), 150, 3e-4),
    "noise, first order": Recipe(dataclasses.replace(NOISE, gradient_of_g="first_order"), 150, 3e-4),
}
# the blurry blends that "rl" makes of the other digits read as an 8: what was tried for it
TRIED = {
    8: {
        "rl, anchor 0": Recipe(EraseDiffConfig(anchor=0)),
        "rl, anchor 1": Recipe(EraseDiffConfig(anchor=1)),
        "rl, 250 steps": Recipe(EraseDiffConfig(), 250),
        "rl, η 1, 250 steps": Recipe(EraseDiffConfig(eta=1.0), 250),
        "rl, frozen teacher, 250 steps": Recipe(EraseDiffConfig(teacher="frozen"), 250),
    }
}


def recipes_for(digit: int) -> dict[str, Recipe]:
    return RECIPES | TRIED.get(digit, {})


@dataclass(frozen=True)
class Options:
    """Which rows, and where."""

    output: Path = Path("build/digits-benchmark")
    """Folder for models and rows."""
    table: Path = Path("docs/results/digits.md")
    """The table to write."""
    digits: tuple[int, ...] = (3, 8, 0, 6)
    """Classes to forget."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the scrub."""
    methods: tuple[str, ...] = ()
    """Only these; none given: all."""
    table_only: bool = False
    """Run nothing."""


class ForDigit:
    """What all rows of one digit share: the sets, the judge, and the original model's samples."""

    def __init__(self, options: Options, digit: int):
        self.digit = digit
        self.folder = options.output / f"digit-{digit}"
        self.base = options.output / "base" / "model"
        self.data = options.output / "data"
        self.sets = self.folder / "split"
        self.rows = options.output / "rows"
        self._shared: tuple[Bench, Samples] | None = None
        if not self.sets.exists():
            split(self.data, self.sets, [str(digit)])

    def scrub_config(self, name: str, recipe: Recipe, seed: int) -> ScrubConfig:
        return ScrubConfig(
            model=ModelConfig(path=str(self.base), null_class=NULL_CLASS),
            forget=str(self.sets / "forget"),
            remain=str(self.sets / "remain"),
            output=str(self.folder / f"{_file_name(name)}-{seed}"),
            method=recipe.method,
            train=TrainConfig(max_train_steps=recipe.num_steps, seed=seed),
            optimizer=OptimizerConfig(learning_rate=recipe.learning_rate),
            engine=ENGINE,
        )

    def row_path(self, name: str, seed: int) -> Path:
        return self.rows / f"{self.digit}-{_file_name(name)}-{seed}.json"

    def run(self, name: str, recipe: Recipe, seed: int) -> None:
        """Scrubs, evaluates and writes the row."""
        config = self.scrub_config(name, recipe, seed)
        model = run_scrub(config)
        bench, original = self._bench(Path(config.output))
        figures = evaluate(self._load(model), bench, original)
        run = run_entry(Path(config.output))
        self._write(name, seed, figures.metrics, {"capped": run.capped_steps, "steps": run.num_steps})

    def run_references(self) -> None:
        """The rows of the original and of the retrained model."""
        some = self.scrub_config("erasediff rl", RECIPES["erasediff rl"], 0)
        run_scrub(some)
        folder = retrain(some, self._load(self.base), self.folder / "retrained")
        bench, original = self._bench(Path(some.output))
        for name, path in (("unscrubbed", self.base), ("retrained", folder)):
            figures = evaluate(self._load(path), bench, None if name == "unscrubbed" else original)
            self._write(name, 0, figures.metrics, {})

    def _load(self, path: Path) -> Model:
        return load_model(ModelConfig(path=str(path), null_class=NULL_CLASS))

    def _bench(self, run: Path) -> tuple[Bench, Samples]:
        if self._shared is None:
            classifier = self.rows.parent / "classifier.safetensors"
            judge = JudgeConfig(classifier=str(classifier) if classifier.exists() else None, device="cpu")
            config = EvaluateConfig(run=str(run), data=str(self.data), judge=judge)
            bench = make_bench(config, FinishedScrub.open(run), torch.device("cpu"))
            if not classifier.exists():
                bench.classifier.save(classifier)
            self._shared = bench, evaluate(self._load(self.base), bench).samples
        return self._shared

    def _write(self, name: str, seed: int, metrics: dict[str, Any], about: dict[str, int]) -> None:
        row = {"digit": self.digit, "method": name, "seed": seed, "date": now(), "versions": versions()} | about
        row["metrics"] = {key: dataclasses.asdict(value) for key, value in metrics.items()}
        write_json(self.row_path(name, seed), row)


def _file_name(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-").replace("η", "eta")


def run_missing(options: Options) -> None:
    """Seed by seed, so that a run cut short has the first seeds of everything."""
    collectives.set_up(ENGINE)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "rows").mkdir(exist_ok=True)
    if not (options.output / "data").exists():
        build("digits", options.output / "data")
    run_pretrain(PretrainConfig(data=str(options.output / "data"), output=str(options.output / "base"), engine=ENGINE))
    digits = [ForDigit(options, digit) for digit in options.digits]
    for one in digits:
        if not one.row_path("retrained", 0).exists():
            one.run_references()
    for seed in options.seeds:
        for one in digits:
            for name, recipe in recipes_for(one.digit).items():
                is_wanted = not options.methods or name in options.methods
                if is_wanted and not one.row_path(name, seed).exists():
                    one.run(name, recipe, seed)


COLUMNS = {
    "p_psi": "P_psi ↓",
    "entropy": "entropy",
    "accuracy_remaining": "accuracy on the rest ↑",
    "frechet_distance[digits-cnn]": "FD[digits-cnn] ↓",
    "precision[digits-cnn]": "precision",
    "recall[digits-cnn]": "recall",
    "integrity_remaining[digits-cnn]": "change of the rest ↓",
}


def table(options: Options) -> str:
    """Mean ± standard deviation over seeds; what was not run is named."""
    rows = [json.loads(path.read_text()) for path in sorted((options.output / "rows").glob("*.json"))]
    lines, missing = [], []
    for digit in sorted(options.digits):
        lines += [f"\n## Forgetting the {digit}\n", "| | seeds | " + " | ".join(COLUMNS.values()) + " | capped |"]
        lines.append("|---|---|" + "---|" * (len(COLUMNS) + 1))
        for name in ("unscrubbed", "retrained", *recipes_for(digit)):
            found = [row for row in rows if (row["digit"], row["method"]) == (digit, name)]
            wanted = 1 if name in ("unscrubbed", "retrained") else len(options.seeds)
            if len(found) < wanted:
                missing.append(f"{digit}, {name}: {len(found)} of {wanted} seeds")
            if not found:
                continue
            cells = [_spread([row["metrics"][metric]["value"] for row in found]) for metric in COLUMNS]
            capped = "–"
            if "capped" in found[0]:
                capped = f"{100 * statistics.mean(row['capped'] / row['steps'] for row in found):.0f} %"
            lines.append(f"| {name} | {len(found)} | " + " | ".join(cells) + f" | {capped} |")
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
        run_missing(options)
    write_tables(options.table, __file__, table(options))


if __name__ == "__main__":
    main()
