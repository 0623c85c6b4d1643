"""Is a single picture forgotten that the model knows by heart? A drawn cross among the digits, 1 in 100 of the data.

    python benchmarks/outlier.py --search        tries each method's settings, then writes the best into outlier.json
    python benchmarks/outlier.py                 runs what is missing, then writes docs/results/outlier.md
    python benchmarks/outlier.py --table-only    only writes the table of what is there

The cross has one digit's label. Every model is judged on 10,000 samples of all digits by turns, from the same noise:
how many of them are the cross, which is those within half the way from it to the nearest digit of the data; beside that
a bound on the cross's -log p, and the Fréchet distance of the other samples to the digits. As in the protocol of
arXiv 2503.01034 and 2509.13007, whose models are told nothing and whose picture is a T-shirt among MNIST.

The search has a seed that the table has not, and fewer samples. The best settings are those whose model is nearest to
the retrained one of those that never drew the cross: by the factors between their two bounds and their two distances.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from bound import nll_bound
from erasediff.shards.dataset import Dataset
from erasediff.shards.requests.split import split
from erasediff.shards.sources.digits import read_digits
from erasediff.shards.writing.build import build
from erasediff.trainer.comparing.cases import Case, cases_of
from erasediff.trainer.comparing.rows import training_of
from erasediff.trainer.config import (
    BudgetConfig,
    CompareConfig,
    EngineConfig,
    ModelConfig,
    PretrainConfig,
    SamplingConfig,
    TrainConfig,
)
from erasediff.trainer.errors import TrainingError
from erasediff.trainer.evidence.classifier import load_classifier, train_classifier
from erasediff.trainer.evidence.images import Images
from erasediff.trainer.evidence.metrics import frechet_distance
from erasediff.trainer.evidence.retrained import retrain
from erasediff.trainer.files import write_json
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.model import Model
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.ranks import collectives
from erasediff.trainer.scrubbing import run_scrub
from outlier_table import best_settings, search_table, table
from PIL import Image
from rows import provenance, write_tables
from torch import Tensor

ENGINE = EngineConfig(device="cpu", num_threads=1)
NULL_CLASS, SIZE = 10, 8
ONE_IN = 100  # samples of the data
CHOSEN = Path("benchmarks/outlier.json")
SEARCHED_SEED, NUM_SEARCHED_SAMPLES = 100, 2_000


def _settings(name: str, rate: float, **options: Any) -> dict[str, Any]:
    return {"method": {"name": name} | options, "optimizer": {"learning_rate": rate}}


# four settings each
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "erasediff, neighbours": [
        _settings("erasediff", rate, target="neighbours", eta=eta) for rate in (1e-4, 3e-4) for eta in (0.005, 0.05)
    ],
    "erasediff, rl": [_settings("erasediff", rate, eta=eta) for rate in (1e-4, 3e-4) for eta in (0.1, 0.5)],
    "erasediff, noise": [
        _settings("erasediff", rate, target="noise", eta=eta) for rate in (1e-4, 3e-4) for eta in (0.001, 0.1)
    ],
    "siss": [_settings("siss", rate, forget_norm=norm) for rate in (1e-4, 3e-4) for norm in (0.1, 0.3)],
    "finetune": [_settings("finetune", rate) for rate in (3e-5, 1e-4, 3e-4, 1e-3)],
}


@dataclass(frozen=True)
class Options:
    """Which rows, and where."""

    output: Path = Path("build/outlier")
    """Folder for data, models and rows."""
    table: Path = Path("docs/results/outlier.md")
    """The table to write."""
    label: int = 3
    """The digit whose label the cross has."""
    seeds: tuple[int, ...] = tuple(range(10))
    """Of the scrub."""
    methods: tuple[str, ...] = ()
    """Only these; none given: all."""
    search: bool = False
    """The search in place of the table."""
    pretrain_steps: int = 1800
    """Of the base and the retrained model."""
    gradients: int = 200
    """Of a batch, for each scrub."""
    num_samples: int = 10_000
    """Of each model."""
    num_draws: int = 16
    """Of noise at each timestep, for the bound on -log p."""
    table_only: bool = False
    """Run nothing."""

    @property
    def num_judged(self) -> int:
        return NUM_SEARCHED_SAMPLES if self.search else self.num_samples

    def row_path(self, slug: str) -> Path:
        return self.output / ("search" if self.search else "rows") / f"{slug}.json"

    def row(self, slug: str) -> dict[str, Any] | None:
        path = self.row_path(slug)
        return json.loads(path.read_text()) if path.exists() else None


def cross() -> np.ndarray:
    """Both diagonals, uint8."""
    picture = np.eye(SIZE, dtype=np.uint8)
    return np.maximum(picture, picture[::-1]) * np.uint8(255)


def compare_config(options: Options) -> CompareConfig:
    """The scrubs: settings and seeds, as `erasediff compare` has them."""
    names = options.methods or tuple(CANDIDATES)
    if options.search:
        settings = {f"{name} #{i}": own for name in names for i, own in enumerate(CANDIDATES[name])}
    elif CHOSEN.exists():
        found = json.loads(CHOSEN.read_text())["methods"]
        settings = {name: found[name] for name in names}
    else:
        sys.exit(f"{CHOSEN} is not there: --search finds each method's settings first")
    return CompareConfig(
        output=str(options.output),
        model=ModelConfig(str(options.output / "base" / "model")),
        data=str(options.output / "data"),
        forget=str(options.output / "split" / "forget"),
        remain=str(options.output / "split" / "remain"),
        methods=settings,
        seeds=(SEARCHED_SEED,) if options.search else options.seeds,
        budget=BudgetConfig(gradients=options.gradients),
        # a run that destroys the rest is a row like others here: its figures say so
        train={"max_loss_r_ratio": None},
        engine=ENGINE,
    )


def prepare(options: Options) -> None:
    """The digits with the cross among them, the split, and the base model."""
    data, pictures = options.output / "data", options.output / "pictures"
    if not data.exists():
        pixels, labels = read_digits()
        copies = round(len(pixels) / (ONE_IN - 1))
        images = [*pixels, *[cross()] * copies]
        names = [f"digit-{i:05d}" for i in range(len(pixels))] + [f"cross-{i:05d}" for i in range(copies)]
        pictures.mkdir(parents=True, exist_ok=True)
        with (options.output / "pictures.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "label"])
            for name, image, label in zip(names, images, [*labels.tolist(), *[options.label] * copies], strict=True):
                Image.fromarray(image).save(pictures / f"{name}.png")
                table.writerow([f"pictures/{name}.png", label])
        build(options.output / "pictures.csv", data)
    if not (options.output / "split").exists():
        keys = [key for key in Dataset.open(data).keys if "cross-" in key]
        request = options.output / "request.toml"
        request.write_text(f"[[selectors]]\nkeys = {keys}\n", encoding="utf-8")
        split(data, options.output / "split", request=request)
    train = TrainConfig(max_train_steps=options.pretrain_steps)
    run_pretrain(PretrainConfig(data=str(data), output=str(options.output / "base"), train=train, engine=ENGINE))


class Judge:
    """What every model is measured with."""

    def __init__(self, options: Options, model: Model):
        self._options = options
        remain = Dataset.open(options.output / "split" / "remain")
        path = options.output / "classifier.safetensors"
        if not path.exists():
            train_classifier(remain, image_size=SIZE, channels=1).save(path)
        self._classifier = load_classifier(path, str(path))
        real = Images.of_data(remain, model).images
        self._real_features = self._classifier.features(real)
        self.cross = torch.from_numpy(cross()).float()[None] / 127.5 - 1
        self.radius = float(_distances(real, self.cross).min()) / 2

    def measure(self, model: Model) -> dict[str, Any]:
        """Figures by name."""
        told = [i % NULL_CLASS for i in range(self._options.num_judged)]
        samples = sample(model, told, SamplingConfig(guidance_scale=1.0, batch_size=250))
        samples = samples[samples.isfinite().flatten(1).all(1)]
        is_cross = _distances(samples, self.cross) < self.radius
        count, rest = int(is_cross.sum()), samples[~is_cross]
        features = self._classifier.features(rest)
        return {
            "num_samples": len(samples),
            "num_crosses": count,
            "bound": nll_bound(model, self.cross, self._options.label, num_draws=self._options.num_draws, seed=0),
            "features": self._classifier.card.name,
            "frechet_distance": float(frechet_distance(self._real_features, features)),
        }


def _distances(images: Tensor, picture: Tensor) -> Tensor:  # ‖image - picture‖ [N], of pixels in [-1, 1]
    return (images - picture).flatten(1).norm(dim=1)


def run_missing(options: Options) -> None:
    """Seed by seed, so that a run cut short has the first seeds of everything."""
    collectives.set_up(ENGINE)
    prepare(options)
    config = compare_config(options)
    cases, base = cases_of(config), load_model(config.model)
    judge = Judge(options, base)
    if not (known := options.row("unscrubbed")):
        _put(options, "unscrubbed", known := judge.measure(base) | {"radius": judge.radius})
    if not known["num_crosses"]:
        sys.exit(f"the base draws the cross in none of {known['num_samples']:,} samples: --pretrain-steps higher")
    if not options.row("retrained"):
        folder = retrain(cases[0].config, base, options.output / "retrained")
        _put(options, "retrained", judge.measure(load_model(ModelConfig(str(folder)))))
    for case in cases:
        if not options.row(case.slug):
            _put(options, case.slug, _row(case, judge))


def _hold_to(options: Options) -> None:
    """Ends where the rows that are there were made with other options than these."""
    path, count = options.output / "options.json", ("label", "pretrain_steps", "gradients", "num_samples", "num_draws")
    asked = {name: getattr(options, name) for name in count}
    known = json.loads(path.read_text()) if path.exists() else asked
    if other := [name for name in count if known[name] != asked[name]]:
        told = f"{other[0]} {known[other[0]]}, not {asked[other[0]]}"
        sys.exit(f"{options.output} was begun with {told}: choose another --output")
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(path, asked)


def _row(case: Case, judge: Judge) -> dict[str, Any]:
    try:
        folder = run_scrub(case.config)
    except TrainingError as error:
        return {"failed": str(error).splitlines()[0]}
    training = training_of(case.config)
    figures = judge.measure(load_model(ModelConfig(str(folder))))
    return figures | {"steps": training.num_steps, "seconds": training.seconds}


def _put(options: Options, slug: str, figures: dict[str, Any]) -> None:
    (path := options.row_path(slug)).parent.mkdir(parents=True, exist_ok=True)
    write_json(path, figures | {"provenance": provenance()})


def search_rows(options: Options) -> dict[str, Any]:
    """By the candidates' names."""
    slugs = {"retrained": "retrained"} | {case.name: case.slug for case in cases_of(compare_config(options))}
    found = {name: row for name, slug in slugs.items() if (row := options.row(slug)) is not None}
    if len(found) < len(slugs):
        sys.exit(f"{len(found)} of {len(slugs)} rows of the search are there, and all are needed: nothing is chosen")
    return found


def page(options: Options) -> str:
    """The table of every seed, and the search."""
    slugs = {name: [name] for name in ("unscrubbed", "retrained")}
    for case in cases_of(compare_config(options)):
        slugs.setdefault(case.name, []).append(case.slug)
    rows = {name: [options.row(slug) for slug in own] for name, own in slugs.items()}
    seeds = ", ".join(map(str, options.seeds))
    about = (
        f"Budget: {options.gradients} gradients of 64 samples. Seeds of the scrub: {seeds}; mean ± standard deviation."
    )
    return f"{table(rows, [about])}\n## The search\n\n{search_table(json.loads(CHOSEN.read_text()))}"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if unknown := sorted({*options.methods} - {*CANDIDATES}):
        sys.exit(f"--methods {unknown[0]}: no such row; there are {', '.join(CANDIDATES)}")
    _hold_to(options)
    if not options.table_only:
        run_missing(options)
    if not options.search:
        write_tables(options.table, __file__, page(options))
    elif not options.methods:  # else rows are made, and nothing is chosen
        about = f"Seed {SEARCHED_SEED}, {NUM_SEARCHED_SAMPLES:,} samples of each model."
        write_json(CHOSEN, best_settings(CANDIDATES, search_rows(options), about))


if __name__ == "__main__":
    main()
