"""A tiny text-to-image model, scrubbed of a word, and how it is judged by prompts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from erasediff.shards import Dataset, build, split
from erasediff.shards.sources.digits_in_ink import COLOURS, DIGITS
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import (
    EngineConfig,
    EvaluateConfig,
    JudgeConfig,
    ModelConfig,
    SamplingConfig,
    ScrubConfig,
    TrainConfig,
)
from erasediff.trainer.evidence.classifier import train_classifier
from erasediff.trainer.evidence.collect import Evidence, run_evaluate
from erasediff.trainer.scrubbing import run_scrub
from evidence_cases import make_whole_clip
from tiny_text import make_pipeline

SAMPLING = SamplingConfig(num_inference_steps=2)
NO_FACTOR: dict[str, Any] = {"factor": None, "factor_classifier": None}
# 2 forgotten, in two phrasings; of the others one colour each
ROWS = [
    *(("two", f"a {colour} two", "a {} two", colour) for colour in ("red", "blue")),
    *(("two", f"two of {colour}", "two of {}", colour) for colour in ("red", "blue")),
    *((digit, f"a {COLOURS[i % 6]} {digit}", "", COLOURS[i % 6]) for i, digit in enumerate(DIGITS) if digit != "two"),
]


def make_scrub(folder: Path) -> Path:
    """data/, colours/, split/, model/, run/, classifier.safetensors and prompts.csv."""
    build("digits-in-ink", folder / "data")
    build("digits-in-ink:colour", folder / "colours")
    split(folder / "data", folder / "split", ["two"])
    make_pipeline(folder / "model")
    config = ScrubConfig(
        model=ModelConfig(str(folder / "model"), truncate_prompts=True),
        forget=str(folder / "split" / "forget"),
        remain=str(folder / "split" / "remain"),
        output=str(folder / "run"),
        method=EraseDiffConfig(anchor=("one", "five"), concept=("two",)),
        train=TrainConfig(max_train_steps=1, train_batch_size=2, descent_every=0, layers=("xattn",)),
        engine=EngineConfig(device="cpu", num_threads=1),
    )
    run_scrub(config)
    for data, name in (("data", "classifier"), ("colours", "colour-judge")):
        judge = train_classifier(Dataset.open(folder / data), image_size=16, channels=3, num_epochs=1)
        judge.save(folder / f"{name}.safetensors")
    write_prompts(folder / "prompts.csv", ROWS)
    make_whole_clip(folder / "clip")
    return folder


def write_prompts(
    path: Path, rows: list[Any], columns: tuple[str, ...] = ("class", "prompt", "phrasing", "factor")
) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def judge_by_prompts(folder: Path, **options: Any) -> JudgeConfig:
    chosen: dict[str, Any] = {
        "classifier": str(folder / "classifier.safetensors"),
        "prompts": str(folder / "prompts.csv"),
        "factor": str(folder / "colours"),
        "factor_classifier": str(folder / "colour-judge.safetensors"),
        "clip": str(folder / "clip"),
        "num_forget_samples_per_class": 10,
        "num_remain_samples_per_class": 15,
        "sampling": SAMPLING,
        "device": "cpu",
        "num_threads": 1,
    }
    return JudgeConfig(**chosen | options)


def evaluate_by_prompts(folder: Path, **options: Any) -> Evidence:
    return run_evaluate(EvaluateConfig(str(folder / "run"), str(folder / "data"), judge_by_prompts(folder, **options)))
