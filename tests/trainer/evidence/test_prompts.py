"""Samples asked for by prompts: which class, phrasing and other factor each figure is of."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from erasediff.shards import Dataset
from erasediff.shards.sources.digits_in_ink import COLOURS, DIGITS
from erasediff.trainer.config import (
    EvaluateConfig,
    ModelConfig,
)
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.asking import Asking
from erasediff.trainer.evidence.classifier import load_classifier
from erasediff.trainer.evidence.clip_score import load_clip
from erasediff.trainer.evidence.collect import Evidence, run_evaluate
from erasediff.trainer.evidence.dry_run import dry_run
from erasediff.trainer.evidence.intervals import bounded_interval
from erasediff.trainer.evidence.reuse import still_holds
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.model import Model
from erasediff.trainer.models.sampling import sample
from evidence_cases import make_whole_clip
from prompt_cases import NO_FACTOR, ROWS, SAMPLING, evaluate_by_prompts, judge_by_prompts, make_scrub, write_prompts
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def scrubbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scrub(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def evidence(scrubbed: Path) -> Evidence:
    return evaluate_by_prompts(scrubbed, thresholds=("p_psi_worst_class <= 0.1", "accuracy_remaining >= 0"))


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

    # the ceiling: each beside the next one of its own prompt, of four prompts
    features, partners = judge.features(images), [4, 5, 6, 7, 8, 9, 2, 3, 0, 1]
    ceiling = (features - features[partners]).norm(dim=1).mean().item()
    assert found[f"integrity_ceiling_forgotten[{judge.card.name}]"].value == pytest.approx(ceiling, rel=1e-4)

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


def test_what_must_hold_of_prompts_where_nothing_is_said(scrubbed: Path) -> None:
    def told(**options: Any) -> str:
        judge = judge_by_prompts(scrubbed, **options)
        return dry_run(EvaluateConfig(str(scrubbed / "run"), str(scrubbed / "data"), judge))

    # four prompts take turns, two of each phrasing
    lines = told(num_forget_samples_per_class=43).splitlines()
    for limit in (
        "p_psi_worst_phrasing <= 0.2",
        "factor_accuracy_remaining >= unscrubbed - 0.02",
        "factor_accuracy_forgotten >= unscrubbed - 0.02",
    ):
        assert f"threshold   {limit}" in lines
    message = (
        r"'p_psi_worst_phrasing <= 0.2' needs 21 samples of each phrasing to be shown, and "
        r"judge.num_forget_samples_per_class = 42 asks one of them 20 times: set it to 43, or give thresholds without"
    )
    with pytest.raises(ConfigError, match=message):
        told(num_forget_samples_per_class=42)
    with pytest.raises(ConfigError, match="asks one of them 0 times: set it to 43"):
        told(num_forget_samples_per_class=2)
    # what asks for more of it, and a limit that holds whatever is seen, need none
    told(num_forget_samples_per_class=2, thresholds=("p_psi_worst_phrasing >= 0.2", "p_psi_worst_phrasing <= 1"))
    # without the column, too, nothing is held by phrasing
    rows = [(row[0], row[1], row[3]) for row in ROWS]
    write_prompts(scrubbed / "ungrouped.csv", rows, ("class", "prompt", "factor"))
    assert "phrasing" not in told(prompts=str(scrubbed / "ungrouped.csv")).partition("threshold  ")[2]


def test_captions_ask_where_no_file_does(scrubbed: Path) -> None:
    record = evaluate_by_prompts(scrubbed, prompts=None, thresholds=("factor_accuracy_remaining >= 0",)).record
    found = record.models["unscrubbed"].metrics
    assert "p_psi_worst_phrasing" not in found and found["factor_accuracy_remaining"].n == 135
    assert set(found["factor_accuracy_forgotten"].by_class) <= set(COLOURS)


def test_what_is_behind_a_path_counts(scrubbed: Path, evidence: Evidence) -> None:
    judge, scrub = judge_by_prompts(scrubbed), ModelConfig(str(scrubbed / "run" / "model"))
    assert still_holds(evidence.record, judge, str(scrubbed / "data"), scrubbed / "run", scrub)
    asked = dataclasses.replace(evidence.record, asked_sha256="0" * 64)
    assert not still_holds(asked, judge, str(scrubbed / "data"), scrubbed / "run", scrub)
    write_prompts(scrubbed / "others.csv", ROWS[1:])
    other = dataclasses.replace(judge, prompts=str(scrubbed / "others.csv"))
    assert not still_holds(evidence.record, other, str(scrubbed / "data"), scrubbed / "run", scrub)
    other = dataclasses.replace(judge, factor=str(scrubbed / "data"))
    assert not still_holds(evidence.record, other, str(scrubbed / "data"), scrubbed / "run", scrub)
    make_whole_clip(scrubbed / "another" / "clip", seed=1)
    other = dataclasses.replace(judge, clip=str(scrubbed / "another" / "clip"))
    assert not still_holds(evidence.record, other, str(scrubbed / "data"), scrubbed / "run", scrub)


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        (
            ROWS,
            ("class", "text", "phrasing", "factor"),
            "has no column 'prompt'; its first line names the columns: class, text",
        ),
        ([], ("class", "prompt"), "holds no prompt"),
        (ROWS[4:], ("class", "prompt", "phrasing", "factor"), "has no prompt of class 'two'"),
        ([("two", "", "", "red")], ("class", "prompt", "phrasing", "factor"), "line 2 has no prompt"),
        (
            [*ROWS, ("one", "a red two", "", "red")],
            ("class", "prompt", "phrasing", "factor"),
            "'a red two' is there twice",
        ),
        (
            [*ROWS, ("Two", "a green two", "", "green")],
            ("class", "prompt", "phrasing", "factor"),
            "'Two' is no class of the data; they are zero, one, two",
        ),
        (
            [*ROWS, ("two", "a green two", "", "green", "ink")],
            ("class", "prompt", "phrasing", "factor"),
            "line 15 has more cells than there are columns: put a prompt that has a comma in quotes",
        ),
        (
            [*ROWS, ("two", "a green two")],
            ("class", "prompt", "phrasing", "factor"),
            "line 15 has fewer cells than",
        ),
        (ROWS, ("class", "prompt", "class", "factor"), "two columns are called 'class'; rename one"),
        (
            [*ROWS, (), ("two", "", "", "red")],  # a blank line is none, and counts
            ("class", "prompt", "phrasing", "factor"),
            "line 16 has no prompt",
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
    write_prompts(tmp_path / "prompts.csv", rows, columns)
    with pytest.raises(ConfigError, match=said):
        evaluate_by_prompts(scrubbed, prompts=str(tmp_path / "prompts.csv"))


def test_prompts_of_neither_set_are_said_to_be_left_out(scrubbed: Path, tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.csv", ROWS)
    model = load_model(ModelConfig(str(scrubbed / "model"), truncate_prompts=True))
    judge = judge_by_prompts(scrubbed, prompts=str(tmp_path / "prompts.csv"), **NO_FACTOR)
    data = Dataset.open(scrubbed / "data")
    asking = Asking.of(judge, model, data, [2], [label for label in range(10) if label not in (2, 7)])
    assert asking.notes == ["prompts     1 ask for 'seven', which is in neither set: not asked"]
    assert 7 not in asking.conditions


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
    judge = dataclasses.replace(
        judge_by_prompts(scrubbed), classifier=str(classifier), factor=None, factor_classifier=None
    )
    with pytest.raises(ConfigError, match=r"judge\.clip = .* compares samples with prompts, and the model is told"):
        run_evaluate(EvaluateConfig(str(run), str(digits / "data"), judge))
    judge = dataclasses.replace(judge, clip=None)
    with pytest.raises(ConfigError, match="the model is told classes, not prompts"):
        run_evaluate(EvaluateConfig(str(run), str(digits / "data"), judge))


def test_published_files_ask_for_what_is_forgotten_and_kept(scrubbed: Path) -> None:
    """In I2P's layout three prompts for the one class that is forgotten, in COCO's three of no class; by hand."""
    forgotten, kept = [f"a {colour} two" for colour in ("red", "blue", "green")], ["a photo", "an image of blue", "red"]
    rows = [[i, prompt, "shapes", 7] for i, prompt in enumerate(forgotten)]
    write_prompts(scrubbed / "i2p.csv", rows, ("", "prompt", "categories", "sd_seed"))
    write_prompts(scrubbed / "coco.csv", [[prompt, 9] for prompt in [*kept, kept[0]]], ("caption", "coco_id"))
    files = {"prompts": str(scrubbed / "i2p.csv"), "kept_prompts": str(scrubbed / "coco.csv")}
    found = evaluate_by_prompts(scrubbed, **files, num_forget_samples_per_class=2, num_kept_samples=4, **NO_FACTOR)
    record = found.record
    assert "prompts     judge.prompts has no column 'class': all 3 ask for 'two'" in record.notes
    assert "prompts     3 ask for 'two', of which judge.num_forget_samples_per_class = 2 asks the first" in record.notes
    assert record.kept_prompts_sha256 == hashlib.sha256((scrubbed / "coco.csv").read_bytes()).hexdigest()
    judge, clip = load_classifier(scrubbed / "classifier.safetensors"), load_clip(str(scrubbed / "clip"))
    unscrubbed, after = (
        load_model(ModelConfig(str(path))) for path in (scrubbed / "model", scrubbed / "run" / "model")
    )

    def made(model: Model, prompts: list[str], seed: int) -> torch.Tensor:
        return sample(model, [*prompts], dataclasses.replace(SAMPLING, seed=seed))

    figures = record.models["unscrubbed"].metrics
    of_two = judge.probabilities(made(unscrubbed, forgotten[:2], 0))[:, DIGITS.index("two")]
    assert figures["p_psi"].value == pytest.approx(of_two.mean().item(), rel=1e-5)
    assert "p_psi_worst_phrasing" not in figures, "each prompt is asked once"
    assert figures["accuracy_remaining"].n == 135, "by the data's captions"
    asked = [*kept, kept[0]]
    before, moved, other = made(unscrubbed, asked, 2), made(after, asked, 2), made(unscrubbed, asked, 3)
    scores = clip(before, asked, torch.device("cpu"))
    assert figures["clip_score_kept[clip-clip]"].value == pytest.approx(scores.mean().item())

    def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        return (judge.features(ours) - judge.features(theirs)).norm(dim=1).mean().item()

    name, ceiling = (f"integrity_{part}kept[{judge.card.name}]" for part in ("", "ceiling_"))
    scrubs = record.models["scrubbed"].metrics
    assert (figures[name].value, figures[name].n, scrubs[name].n, figures[ceiling].n) == (0, 4, 4, 4)
    assert scrubs[name].value == pytest.approx(apart(moved, before), rel=1e-4)
    assert figures[ceiling].value == pytest.approx(apart(before, other), rel=1e-4)
    # two prompts of the class, each asked once
    twos = (made(unscrubbed, forgotten[:2], seed) for seed in (0, 3))
    ceiling = ceiling.replace("kept", "forgotten")
    assert (figures[ceiling].value, figures[ceiling].n) == (pytest.approx(apart(*twos), rel=1e-4), 2)
    assert (figures["black_samples"].value, figures["black_samples"].n) == (0, 2 + 135 + 4)
    text = found.report_path.read_text()
    assert text.count('alt="scrubbed: kept prompts"') == 1 and "real: kept prompts" not in text
    scrub, options = ModelConfig(str(scrubbed / "run" / "model")), judge_by_prompts(scrubbed, **files, **NO_FACTOR)
    assert still_holds(record, options, str(scrubbed / "data"), scrubbed / "run", scrub)
    other_file = dataclasses.replace(options, kept_prompts=str(scrubbed / "i2p.csv"))
    assert not still_holds(record, other_file, str(scrubbed / "data"), scrubbed / "run", scrub)


@pytest.mark.parametrize(("forgotten", "found"), [([2, 3], "2 classes are"), ([], "no whole class is")])
def test_prompts_of_no_class_ask_for_one(scrubbed: Path, tmp_path: Path, forgotten: list[int], found: str) -> None:
    write_prompts(tmp_path / "prompts.csv", [["a red two"]], ("prompt",))
    options = judge_by_prompts(scrubbed, prompts=str(tmp_path / "prompts.csv"), **NO_FACTOR)
    model, data = load_model(ModelConfig(str(scrubbed / "model"))), Dataset.open(scrubbed / "data")
    with pytest.raises(ConfigError, match=f"has no column 'class', and {found} forgotten"):
        Asking.of(options, model, data, forgotten or [1], [0, 1])


def test_what_judges_another_factor_is_a_copy_too(scrubbed: Path, evidence: Evidence) -> None:
    """The same pictures, called otherwise, and what was trained on them."""
    listed = {Path(copy.path).resolve(): copy.holds for copy in evidence.record.copies}
    assert "another factor" in listed[(scrubbed / "colour-judge.safetensors").resolve()]
    factor = evidence.record.judge["factor"]
    for shard in Path(factor).glob("*.tar"):
        assert "may hold forgotten samples" in listed[shard.resolve()]
