"""Is a single picture forgotten that the model knows by heart? A drawn cross among the digits, 1 in 100 of the data.

    python benchmarks/outlier.py                 runs what is missing, then writes docs/results/outlier.md
    python benchmarks/outlier.py --table-only    only writes the table of what is there

The cross has one digit's label. Every model is judged on 10,000 samples of all digits by turns, from the same noise:
how many of them are the cross, which is those within half the way from it to the nearest digit of the data; beside that
a bound on the cross's -log p, and the Fréchet distance of the other samples to the digits. As in the protocol of
arXiv 2503.01034 and 2509.13007, whose models are told nothing and whose picture is a T-shirt among MNIST.
"""

from __future__ import annotations

import csv
import json
import statistics
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
from erasediff.trainer.evidence.intervals import score_interval
from erasediff.trainer.evidence.metrics import frechet_distance
from erasediff.trainer.evidence.retrained import retrain
from erasediff.trainer.files import write_json
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.model import Model
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.ranks import collectives
from erasediff.trainer.scrubbing import run_scrub
from PIL import Image
from rows import provenance, write_tables
from torch import Tensor

ENGINE = EngineConfig(device="cpu", num_threads=1)
NULL_CLASS = 10
SIZE = 8
ONE_IN = 100  # samples of the data
METHODS: dict[str, dict[str, Any]] = {
    "neighbours": {"method": {"target": "neighbours"}},
    "siss": {"method": {"name": "siss"}},
    "erasediff, rl": {"method": {"target": "rl"}},
    "erasediff, noise": {"method": {"target": "noise"}},
    "finetune": {"method": {"name": "finetune"}},
}
REFERENCES = ("unscrubbed", "retrained")


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


def cross() -> np.ndarray:
    """Both diagonals, uint8."""
    picture = np.eye(SIZE, dtype=np.uint8)
    return np.maximum(picture, picture[::-1]) * np.uint8(255)


def compare_config(options: Options) -> CompareConfig:
    """The scrubs: settings and seeds, as `erasediff compare` has them."""
    chosen = options.methods or tuple(METHODS)
    return CompareConfig(
        output=str(options.output),
        model=ModelConfig(str(options.output / "base" / "model")),
        data=str(options.output / "data"),
        forget=str(options.output / "split" / "forget"),
        remain=str(options.output / "split" / "remain"),
        methods={name: METHODS[name] for name in chosen},
        seeds=options.seeds,
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
        options = self._options
        told = [i % NULL_CLASS for i in range(options.num_samples)]
        samples = sample(model, told, SamplingConfig(guidance_scale=1.0, batch_size=250))
        samples = samples[samples.isfinite().flatten(1).all(1)]
        is_cross = _distances(samples, self.cross) < self.radius
        count, rest = int(is_cross.sum()), samples[~is_cross]
        features = self._classifier.features(rest)
        return {
            "num_samples": len(samples),
            "num_crosses": count,
            "bound": nll_bound(model, self.cross, options.label, num_draws=options.num_draws, seed=0),
            "features": self._classifier.card.name,
            "frechet_distance": float(frechet_distance(self._real_features, features)),
        }


def _distances(images: Tensor, picture: Tensor) -> Tensor:
    """‖image - picture‖ [N], of pixels in [-1, 1]."""
    return (images - picture).flatten(1).norm(dim=1)


def run_missing(options: Options) -> None:
    """Seed by seed, so that a run cut short has the first seeds of everything."""
    collectives.set_up(ENGINE)
    prepare(options)
    config = compare_config(options)
    cases, base = cases_of(config), load_model(config.model)
    judge = Judge(options, base)
    if not _row_path(options, "unscrubbed").exists():
        _put(options, "unscrubbed", judge.measure(base) | {"radius": judge.radius})
    known = json.loads(_row_path(options, "unscrubbed").read_text())
    if not known["num_crosses"]:
        sys.exit(f"the base draws the cross in none of {known['num_samples']:,} samples: --pretrain-steps higher")
    if not _row_path(options, "retrained").exists():
        folder = retrain(cases[0].config, base, options.output / "retrained")
        _put(options, "retrained", judge.measure(load_model(ModelConfig(str(folder)))))
    for case in cases:
        if not _row_path(options, case.slug).exists():
            _put(options, case.slug, _row(case, judge))


def _hold_to(options: Options) -> None:
    """Ends where the rows that are there were made with other options than these."""
    path, count = options.output / "options.json", ("label", "pretrain_steps", "gradients", "num_samples", "num_draws")
    asked = {name: getattr(options, name) for name in count}
    known = json.loads(path.read_text()) if path.exists() else asked
    if other := [name for name in count if known[name] != asked[name]]:
        name = other[0]
        sys.exit(f"{options.output} was begun with {name} {known[name]}, not {asked[name]}: choose another --output")
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


def _row_path(options: Options, slug: str) -> Path:
    return options.output / "rows" / f"{slug}.json"


def _put(options: Options, slug: str, figures: dict[str, Any]) -> None:
    path = _row_path(options, slug)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, figures | {"provenance": provenance()})


def table(options: Options) -> str:
    """Mean ± standard deviation over seeds; what was not run is named."""
    slugs = {name: [name] for name in REFERENCES}
    for case in cases_of(compare_config(options)):
        slugs.setdefault(case.name, []).append(case.slug)
    lines, missing, known = [], [], []
    for name, own in slugs.items():
        rows = [json.loads(path.read_text()) for slug in own if (path := _row_path(options, slug)).exists()]
        whole = [row for row in rows if "failed" not in row]
        known += whole
        missing += [f"{name}: {len(rows)} of {len(own)} rows"] * (len(rows) < len(own))
        missing += [f"{name} ended early: {row['failed']}" for row in rows if "failed" in row]
        shares = [row["num_crosses"] / row["num_samples"] for row in whole]
        # what the samples of the worst seed allow, at 95 %
        most = [score_interval(share, row["num_samples"])[1] for share, row in zip(shares, whole, strict=True)]
        cells = [
            _spread([100 * share for share in shares], 2),
            f"{100 * max(most):.2f}" if most else "–",
            _spread([row["bound"] for row in whole], 3),
            _spread([row["frechet_distance"] for row in whole], 2),
            _spread([row.get("seconds") for row in whole], 1),
        ]
        lines.append(f"| {name} | {len(whole)} | " + " | ".join(cells) + " |")
    features = ", ".join(sorted({row["features"] for row in known}))
    heading = f"| | seeds | crosses, % ↓ | most, % | −log p(cross) ≤, bits/pixel ↑ | FD[{features}] of the rest ↓ | s |"
    about = ["", *(f"- {line}" for line in [*missing, *_about(options, known)])]
    return "\n".join([heading, "|---|---|---|---|---|---|---|", *lines, *about]) + "\n"


def _about(options: Options, rows: list[dict[str, Any]]) -> list[str]:
    radius = next((row["radius"] for row in rows if "radius" in row), None)
    told = [", ".join(sorted({row["provenance"][key] for row in rows})) for key in ("device", "date", "command")]
    counts = sorted({row["num_samples"] for row in rows})
    return [
        f"Samples of each model: {', '.join(f'{count:,}' for count in counts)}; those within {radius or 0:.2f} of the "
        f"cross count (pixels in [-1, 1]). Budget: {options.gradients} gradients of 64 samples.",
        f"Seeds of the scrub: {', '.join(map(str, options.seeds))}; mean ± standard deviation over them.",
        f"{told[0]}; {told[1]}; `{told[2]}`.",
    ]


def _spread(values: list[float | None], num_digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.{num_digits}f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.{num_digits}f}"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if unknown := sorted({*options.methods} - {*METHODS}):
        sys.exit(f"--methods {unknown[0]}: no such row; there are {', '.join(METHODS)}")
    _hold_to(options)
    if not options.table_only:
        run_missing(options)
    write_tables(options.table, __file__, table(options))


if __name__ == "__main__":
    main()
