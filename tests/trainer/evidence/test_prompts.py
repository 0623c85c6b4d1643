"""Samples asked for by prompts: which class, phrasing and other factor each figure is of."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
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
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.classifier import load_classifier, train_classifier
from erasediff.trainer.evidence.clip_score import load_clip
from erasediff.trainer.evidence.collect import Evidence, run_evaluate
from erasediff.trainer.evidence.intervals import bounded_interval
from erasediff.trainer.evidence.prompt_file import read_prompts
from erasediff.trainer.evidence.reuse import still_holds
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.scrubbing import run_scrub
from evidence_cases import make_whole_clip
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_text import make_pipeline

SAMPLING = SamplingConfig(num_inference_steps=2)
# 2 forgotten, in two phrasings; of the others one colour each
ROWS = [
    *(("two", f"a {colour} two", "a {} two", colour) for colour in ("red", "blue")),
    *(("two", f"two of {colour}", "two of {}", colour) for colour in ("red", "blue")),
    *((digit, f"a {COLOURS[i % 6]} {digit}", "", COLOURS[i % 6]) for i, digit in enumerate(DIGITS) if digit != "two"),
]


@pytest.fixture(scope="module")
def scrubbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, colours/, split/, model/, run/, classifier.safetensors and prompts.csv."""
    folder = tmp_path_factory.mktemp("text")
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
    _write(folder / "prompts.csv", ROWS)
    make_whole_clip(folder / "clip")
    return folder


def _write(path: Path, rows: list[Any], columns: tuple[str, ...] = ("class", "prompt", "phrasing", "factor")) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def _judge(folder: Path, **options: Any) -> JudgeConfig:
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


def _evaluate(folder: Path, **options: Any) -> Evidence:
    return run_evaluate(EvaluateConfig(str(folder / "run"), str(folder / "data"), _judge(folder, **options)))


@pytest.fixture(scope="module")
def evidence(scrubbed: Path) -> Evidence:
    return _evaluate(scrubbed)


def test_figures_by_hand(scrubbed: Path, evidence: Evidence) -> None:
    """Prompts of a class by turns, judged by the classifiers alone."""
    found = evidence.record.models["unscrubbed"].metrics
    model = load_model(ModelConfig(str(scrubbed / "model")))
    judge = load_classifier(scrubbed / "classifier.safetensors")
    forget = [ROWS[i % 4] for i in range(10)]
    images = sample(model, [prompt for _, prompt, _, _ in forget], SAMPLING)
    probabilities = judge.probabilities(images)
    of_two = probabilities[:, DIGITS.index("two")].double()
    assert found["p_psi"].value == pytest.approx(of_two.mean().item())
    by_phrasing = {
        name: of_two[[i for i, row in enumerate(forget) if row[2] == name]].mean().item()
        for name in ("a {} two", "two of {}")
    }
    assert {name: one.value for name, one in found["p_psi_by_phrasing"].by_class.items()} == pytest.approx(by_phrasing)
    worst = max(by_phrasing, key=lambda name: by_phrasing[name])
    assert (found["p_psi_worst_phrasing"].of_class, found["p_psi_worst_phrasing"].n) == (
        worst,
        6 if worst[0] == "a" else 4,
    )
    assert found["unlearning_accuracy"].value == (probabilities.argmax(1) != DIGITS.index("two")).double().mean().item()

    colours = load_classifier(scrubbed / "colour-judge.safetensors")
    assert evidence.record.factor_classifier == colours.card
    remain = [row for i in range(15) for row in ROWS[4:]]
    others = sample(model, [prompt for _, prompt, _, _ in remain], dataclasses.replace(SAMPLING, seed=1))
    clip = load_clip(str(scrubbed / "clip"))
    assert evidence.record.clip_sha256 == clip.sha256
    for name, rows, made in (("forgotten", forget, images), ("remaining", remain, others)):
        scores = clip(made, [row[1] for row in rows], torch.device("cpu"))
        figure = found[f"clip_score_{name}[clip-clip]"]
        assert (figure.value, figure.n) == (pytest.approx(scores.mean().item()), len(rows))
        assert (figure.low, figure.high) == pytest.approx(bounded_interval(scores, 100.0))
        asked = torch.tensor([COLOURS.index(row[3]) for row in rows])
        right = (colours.probabilities(made).argmax(1) == asked).double()
        figure = found[f"factor_accuracy_{name}"]
        assert (figure.value, figure.n) == (pytest.approx(right.mean().item()), len(rows))
        assert set(figure.by_class) == {row[3] for row in rows}
        assert figure.by_class["red"].value == pytest.approx(right[asked == COLOURS.index("red")].mean().item())


def test_other_factors_must_be_kept_by_default(evidence: Evidence) -> None:
    texts = [verdict.threshold for verdict in evidence.record.thresholds]
    assert "factor_accuracy_remaining >= unscrubbed - 0.02" in texts
    assert "factor_accuracy_forgotten >= unscrubbed - 0.02" in texts


def test_captions_ask_where_no_file_does(scrubbed: Path) -> None:
    record = _evaluate(scrubbed, prompts=None, thresholds=("factor_accuracy_remaining >= 0",)).record
    found = record.models["unscrubbed"].metrics
    assert "p_psi_worst_phrasing" not in found and found["factor_accuracy_remaining"].n == 135
    assert set(found["factor_accuracy_forgotten"].by_class) <= set(COLOURS)


def test_what_is_behind_a_path_counts(scrubbed: Path, evidence: Evidence) -> None:
    judge, scrub = _judge(scrubbed), ModelConfig(str(scrubbed / "run" / "model"))
    assert still_holds(evidence.record, judge, scrubbed / "run", scrub)
    _write(scrubbed / "others.csv", ROWS[1:])
    other = dataclasses.replace(judge, prompts=str(scrubbed / "others.csv"))
    assert not still_holds(evidence.record, other, scrubbed / "run", scrub)
    other = dataclasses.replace(judge, factor=str(scrubbed / "data"))
    assert not still_holds(evidence.record, other, scrubbed / "run", scrub)
    make_whole_clip(scrubbed / "another" / "clip", seed=1)
    other = dataclasses.replace(judge, clip=str(scrubbed / "another" / "clip"))
    assert not still_holds(evidence.record, other, scrubbed / "run", scrub)


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (
            ROWS,
            ("class", "text", "phrasing", "factor"),
            "has no column 'prompt'; its first line names the columns: class, text",
        ),
        (ROWS, ("case", "prompt", "phrasing", "factor"), "has no column 'class'"),
        ([], ("class", "prompt"), "holds no prompt"),
        (ROWS[4:], ("class", "prompt", "phrasing", "factor"), "has no prompt of class 'two'"),
        ([("two", "", "", "red")], ("class", "prompt", "phrasing", "factor"), "line 2 has no prompt"),
        (
            [*ROWS, ("one", "a red two", "", "red")],
            ("class", "prompt", "phrasing", "factor"),
            "'a red two' is there twice",
        ),
        (
            [("two", "a 2", "", "red")],
            ("class", "prompt", "phrasing", "factor"),
            "the model's tokenizer does not know '2'",
        ),
        (
            [*ROWS[:-1], ("nine", "a nine", "", "pink")],
            ("class", "prompt", "phrasing", "factor"),
            "the factor of 'a nine' is 'pink', which is no class of judge.factor",
        ),
    ],
)
def test_files_that_cannot_be_asked(
    scrubbed: Path, tmp_path: Path, rows: list[Any], columns: tuple[str, ...], said: str
) -> None:
    _write(tmp_path / "prompts.csv", rows, columns)
    with pytest.raises(ConfigError, match=said):
        _evaluate(scrubbed, prompts=str(tmp_path / "prompts.csv"))


def test_a_judge_of_another_network_is_refused(scrubbed: Path, tmp_path: Path) -> None:
    """Of 16 pixels and more the same tensors once stood without a pooling between them."""
    with safe_open(scrubbed / "classifier.safetensors", framework="pt") as file:
        about = file.metadata()
    assert about["format"] == "erasediff-classifier-2"
    weights = load_file(scrubbed / "classifier.safetensors")
    save_file(weights, tmp_path / "old.safetensors", about | {"format": "erasediff-classifier-1"})
    with pytest.raises(ConfigError, match="was made by an older erasediff, whose network for pictures of 16 pixels"):
        load_classifier(tmp_path / "old.safetensors")


def test_prompts_for_a_model_of_classes_are_refused(scrubbed: Path, digits: Path, run: Path, classifier: Path) -> None:
    judge = dataclasses.replace(_judge(scrubbed), classifier=str(classifier), factor=None, factor_classifier=None)
    with pytest.raises(
        ConfigError, match=r"judge\.clip = .* compares samples with prompts, and the model is told"
    ):
        run_evaluate(EvaluateConfig(str(run), str(digits / "data"), judge))
    judge = dataclasses.replace(judge, clip=None)
    with pytest.raises(ConfigError, match="the model is told classes, not prompts"):
        run_evaluate(EvaluateConfig(str(run), str(digits / "data"), judge))


def test_layouts_of_published_files(tmp_path: Path) -> None:
    """I2P's and COCO's columns are read over; a byte order mark, too."""
    path = tmp_path / "i2p.csv"
    path.write_text('\ufeffcase_number,prompt,evaluation_seed,class\n0,"a red two, please",5,two\n', encoding="utf-8")
    (row,) = read_prompts(path)
    assert (row.prompt, row.of_class, row.phrasing, row.factor) == ("a red two, please", "two", "a red two, please", "")
