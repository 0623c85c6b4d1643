"""The paper's own experiment, CIFAR-10's airplanes: every method beside the model before and one that never saw them.

    python benchmarks/cifar10.py --images cifar10          all stages; again: what is missing
    python benchmarks/cifar10.py --stages compare table    some of them
    timeout --preserve-status 540 python benchmarks/cifar10.py …    ends with 75, and what was done is kept

Stages: shards (data and sets), base (the paper's U-Net), judge (a ResNet), retrained (the base model without
airplanes), compare (every method scrubs and is measured), cost (seconds and memory of five runs, as the paper's Table
4), table (OUTPUT/cifar10.md). On CUDA models train in bf16-autocast, the base model compiled. `--tiny` is all of it at
a size that takes seconds on a CPU; it says nothing but that the script works.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from cifar10_table import PRINTED_COSTS, Cost, goals, page
from erasediff.shards import Dataset
from erasediff.shards.errors import DataError
from erasediff.shards.requests.split import split
from erasediff.shards.writing.build import build
from erasediff.trainer.comparing.cases import cases_of
from erasediff.trainer.comparing.rows import read_row, training_of
from erasediff.trainer.comparing.run import run_compare
from erasediff.trainer.comparing.table import Line, lines_of
from erasediff.trainer.config import (
    CompareConfig,
    EngineConfig,
    JudgeConfig,
    ModelConfig,
    PretrainConfig,
    RelearnConfig,
    ResNetConfig,
    SamplingConfig,
)
from erasediff.trainer.config.compare import RETRAINED, UNSCRUBBED
from erasediff.trainer.config.toml import as_dict, decode, over_defaults, read_toml, with_setting
from erasediff.trainer.errors import ConfigError, Interrupted, TrainingError
from erasediff.trainer.evidence.classifier import is_as_asked, load_classifier, train_classifier
from erasediff.trainer.evidence.retrained import retrain
from erasediff.trainer.files import write_json, write_text
from erasediff.trainer.models.families import load_model
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.ranks import collectives, meeting
from erasediff.trainer.ranks.freed_memory import give_back
from erasediff.trainer.run.identity import what_counts
from erasediff.trainer.scrubbing import run_scrub
from rows import provenance

RECIPES = Path(__file__).resolve().parents[1] / "docs" / "recipes"
FORGOTTEN = "airplane"
NULL_CLASS = 10
# what every method has that says nothing else: the paper's steps, batch and learning rate
TRAIN = {"max_train_steps": 300, "train_batch_size": 128, "max_loss_r_ratio": None}
OPTIMIZER = {"learning_rate": 1e-4, "max_grad_norm": 1.0}
# a run's name to its settings, or to the recipe that has them
METHODS: dict[str, dict[str, Any] | str] = {
    "EraseDiff rl": "cifar10-airplane-rl",
    "EraseDiff noise": "cifar10-airplane-noise",
    "finetune": {"name": "finetune"},
    "neggrad": {"name": "neggrad"},
    "blindspot": {"name": "blindspot"},
    "selective_amnesia": {"name": "selective_amnesia"},
    "salun": {"name": "salun"},
    "EraseDiff rl, value": "cifar10-airplane-rl-value",
    "EraseDiff noise, first order": "cifar10-airplane-noise-first-order",
    "EraseDiff to the null class": {"anchor": NULL_CLASS, "lambda_cap": 1.0},
    "meta_erasediff": {"name": "meta_erasediff"},
    "moo": {"name": "moo"},
    "munba": {"name": "munba"},
    "restricted_gradient": {"name": "restricted_gradient"},
    "esd": {"name": "esd"},
}
# what methods do before their first step, at the tiny size
TINY_METHODS: dict[str, dict[str, Any]] = {
    "blindspot": {"num_proxy_steps": 2},
    "selective_amnesia": {"num_fisher_levels": 2},
    "salun": {"num_mask_batches": 2},
}
TINY_UNET = {"block_out_channels": [8, 8], "layers_per_block": 1, "attention_head_dim": 8, "norm_num_groups": 4}

Stage = Literal["shards", "base", "judge", "retrained", "compare", "cost", "table"]


@dataclass(frozen=True)
class Options:
    """What is run, how large, and where."""

    images: Path | None = None
    """CIFAR-10's training pictures, a folder or zip of class/NNNN.jpg, or a folder that has them as train or train.zip;
    needed until the shards are there."""
    output: Path = Path("build/cifar10")
    """Folder for data, models and rows."""
    stages: tuple[Stage, ...] = ("shards", "base", "judge", "retrained", "compare", "cost", "table")
    """Which of them, in this order."""
    only: tuple[str, ...] = ()
    """Rows of the comparison, by their names; none given: all."""
    seeds: tuple[int, ...] = (0,)
    """Of the scrubs that are compared."""
    cost_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of those whose time and memory are taken."""
    num_samples: int = 500
    """Of each class, for each row; the paper has 5,000."""
    base_steps: int | None = None
    """Of the base model, and of the retrained one; none: those of docs/recipes/pretrain/cifar10.toml."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    tiny: bool = False
    """All of it, as small as can be."""


def engine(options: Options, *, compiled: bool = False) -> EngineConfig:
    if options.device == "cpu" or not torch.cuda.is_available():
        return EngineConfig(device=options.device)
    return EngineConfig(device=options.device, precision="bf16-autocast", compile=compiled)


def base_config(options: Options) -> PretrainConfig:
    values = read_toml(RECIPES / "pretrain" / "cifar10.toml")
    values |= {"data": str(options.output / "data"), "output": str(options.output / "base")}
    if options.tiny:
        values = with_setting(values, "unet", TINY_UNET)
        values = with_setting(values, "train", {"max_train_steps": 5, "train_batch_size": 4, "checkpointing_steps": 2})
        values = with_setting(values, "optimizer", {"lr_warmup_steps": 1, "ema_decay": "none"})
    if options.base_steps is not None:
        values = with_setting(values, "train.max_train_steps", options.base_steps)
    config = decode(PretrainConfig, over_defaults(PretrainConfig, values), "docs/recipes/pretrain/cifar10.toml")
    return dataclasses.replace(config, engine=engine(options, compiled=True))


def judge_config(options: Options) -> JudgeConfig:
    judge = JudgeConfig(
        with_retrained=True,
        relearn=True,
        classifier=str(options.output / "classifier.safetensors"),
        architecture="resnet",
        num_forget_samples_per_class=options.num_samples,
        num_remain_samples_per_class=options.num_samples,
        sampling=SamplingConfig(batch_size=500),
        device=options.device,
    )
    if not options.tiny:
        return judge
    return dataclasses.replace(
        judge,
        resnet=ResNetConfig(blocks=(1, 1), width=4, num_epochs=2, batch_size=8),
        num_forget_samples_per_class=4,
        num_remain_samples_per_class=2,
        sampling=SamplingConfig(guidance_scale=1.0, num_inference_steps=2),
        relearning=RelearnConfig(num_images=2, num_steps=1, num_points=1, num_samples=2),
    )


def compare_config(options: Options) -> CompareConfig:
    train = TRAIN | ({"max_train_steps": 2, "train_batch_size": 4} if options.tiny else {})
    return CompareConfig(
        output=str(options.output / "compare"),
        model=ModelConfig(str(options.output / "base" / "model")),
        data=str(options.output / "data"),
        forget=str(options.output / "sets" / "forget"),
        remain=str(options.output / "sets" / "remain"),
        methods={name: _settings(name, settings, options) for name, settings in METHODS.items()},
        seeds=options.seeds,
        train=train,
        optimizer=OPTIMIZER,
        engine=engine(options),
        judge=judge_config(options),
    )


def _settings(name: str, settings: dict[str, Any] | str, options: Options) -> dict[str, Any]:
    if isinstance(settings, dict):
        return {"method": settings | (TINY_METHODS.get(name, {}) if options.tiny else {})}
    recipe = read_toml(RECIPES / f"{settings}.toml")
    # a scrub of a minute is begun anew; at the tiny size all have its steps and batch
    train = {} if options.tiny else {"train": recipe["train"] | {"checkpointing_steps": 0}}
    return {"method": recipe["method"], "optimizer": recipe["optimizer"]} | train


def shards(options: Options) -> None:
    """data/, and in sets/ its airplanes and the rest."""
    data = options.output / "data"
    if not data.exists():
        if options.images is None:
            raise ConfigError("--images: name CIFAR-10's training pictures")
        found = [path for name in ("train", "train.zip") if (path := options.images / name).exists()]
        build(found[0] if found else options.images, data, name="cifar10")
    if not (options.output / "sets").exists():
        split(data, options.output / "sets", [FORGOTTEN])


def base(options: Options) -> None:
    run_pretrain(base_config(options))


def judge(options: Options) -> None:
    """Trained once, and the same for every row."""
    config, data = judge_config(options), Dataset.open(options.output / "data")
    path, device = Path(str(config.classifier)), collectives.set_up(engine(options))
    if path.exists() and is_as_asked(load_classifier(path).card, config, data):
        return
    shape = load_model(compare_config(options).model)
    train_classifier(
        data, image_size=shape.image_size, channels=shape.channels, resnet=config.trained_resnet, device=device
    ).save(path)


def retrained(options: Options) -> None:
    """Where the comparison looks for it."""
    config = compare_config(options)
    retrain(cases_of(config)[0].config, load_model(config.model), Path(config.output) / "retrained")


def compare(options: Options) -> None:
    run_compare(compare_config(options), only=options.only)


def cost(options: Options) -> None:
    """A row for each run of the paper's Table 4; the run itself is not kept."""
    for case in cases_of(dataclasses.replace(compare_config(options), seeds=options.cost_seeds)):
        row = options.output / "cost" / f"{case.slug}.json"
        settings = as_dict(case.config)
        made_of = json.loads(
            json.dumps(what_counts(settings) | {"engine": settings["engine"], "device": options.device})
        )
        if case.name not in PRINTED_COSTS or (row.exists() and json.loads(row.read_text()).get("made_of") == made_of):
            continue
        config = dataclasses.replace(case.config, output=str(options.output / "cost" / case.slug))
        run_scrub(config)
        took = training_of(config)
        found = Cost(case.name, case.seed, took.seconds, took.preparing_seconds, took.peak_bytes)
        write_json(row, {"cost": dataclasses.asdict(found), "made_of": made_of, "provenance": provenance()})
        shutil.rmtree(config.output)
        give_back(torch.device(options.device))  # hooks hold the weights in circles


def table(options: Options, command: str) -> None:
    """Of what is there."""
    found = [Cost(**json.loads(path.read_text())["cost"]) for path in sorted((options.output / "cost").glob("*.json"))]
    lines, path = _lines(options), options.output / "classifier.safetensors"
    about = "There is no judge yet."
    if path.exists():
        card = load_classifier(path).card
        about = f"Judge: {card.name}, right on {card.held_out_accuracy:.1%} of {card.num_held_out:,} unseen pictures."
    text = page(compare_config(options), lines, found, len(options.cost_seeds), about, command)
    write_text(options.output / "cifar10.md", text)
    print(goals({line.name: line for line in lines}))
    print(f"table: {options.output / 'cifar10.md'}")


def _lines(options: Options) -> list[Line]:
    config = compare_config(options)
    cases = cases_of(config)
    slugs = [UNSCRUBBED, RETRAINED, *(case.slug for case in cases)]
    rows = {slug: read_row(Path(config.output) / "rows" / f"{slug}.json") for slug in slugs}
    return lines_of(config, cases, {slug: row for slug, row in rows.items() if row is not None})


def main(words: Sequence[str] | None = None) -> int:
    """0; 75 where it was stopped, with all kept; 1 where it cannot go on."""
    words = sys.argv[1:] if words is None else words
    options = tyro.cli(Options, args=words, description=__doc__)
    command = shlex.join(["python", "benchmarks/cifar10.py", *words])
    stages = {
        "shards": shards,
        "base": base,
        "judge": judge,
        "retrained": retrained,
        "compare": compare,
        "cost": cost,
        "table": partial(table, command=command),
    }
    try:
        with meeting.on_signals():
            for name in options.stages:
                print(f"== {name}", flush=True)
                stages[name](options)
    except Interrupted as stop:
        print(f"cifar10.py: {stop}", file=sys.stderr)
        return os.EX_TEMPFAIL
    except (ConfigError, DataError, TrainingError) as error:
        print(f"cifar10.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
