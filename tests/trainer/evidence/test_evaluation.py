"""Models side by side: figures of the images they name, on any number of ranks."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import cast

import pytest
import tiny
import torch
from erasediff.shards.dataset import Dataset
from erasediff.shards.requests.request import Request, Selector
from erasediff.shards.requests.split import split
from erasediff.trainer.config import (
    ModelConfig,
    SamplingConfig,
)
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence import metrics
from erasediff.trainer.evidence.classifier import read_images
from erasediff.trainer.evidence.collect import Evidence, run_evaluate
from erasediff.trainer.evidence.evaluation import Figures, evaluate
from erasediff.trainer.evidence.finished import FinishedScrub
from erasediff.trainer.evidence.images import Images
from erasediff.trainer.evidence.making import make_bench
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.scrubbing import run_scrub
from evidence_cases import sha256_of_file, tiny_evaluation

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def evidence(digits: Path, run: Path, classifier: Path) -> Evidence:
    sampling = SamplingConfig(num_inference_steps=2, batch_size=24)
    return run_evaluate(tiny_evaluation(run, digits, classifier, relearn=True, near=("8", "9"), sampling=sampling))


def test_models_stand_side_by_side(evidence: Evidence) -> None:
    record = evidence.record
    assert list(record.models) == ["unscrubbed", "scrubbed"]
    names = set(record.models["scrubbed"].metrics)
    assert names >= {"p_psi", "entropy", "accuracy_remaining", "frechet_distance[digits-cnn]", "recall[digits-cnn]"}
    for entry in record.models.values():
        assert all(measurement.value is not None for measurement in entry.metrics.values()), entry.metrics
        assert entry.metrics["p_psi"].n == 12 and entry.metrics["accuracy_remaining"].n == 135
        # samples of what remains have a seed of their own
        of_remain = re.compile("remaining|_near|_far|^accuracy|frechet|kernel|precision|recall")
        assert {name: found.seed for name, found in entry.metrics.items()} == {
            name: int(of_remain.search(name) is not None) for name in entry.metrics
        }
        assert [point.step for point in entry.relearning] == [0, 1, 2]
    assert record.forgotten_classes == ["3"]
    assert (record.forget.num_samples, record.remain.num_samples) == (183, 1614)


def test_integrity_has_floor_zero_and_a_ceiling(evidence: Evidence) -> None:
    unscrubbed, scrubbed = (evidence.record.models[name].metrics for name in ("unscrubbed", "scrubbed"))
    for side in ("remaining", "forgotten"):
        assert unscrubbed[f"integrity_{side}[digits-cnn]"].value == 0.0
        # whole batches of 24
        assert unscrubbed[f"integrity_{side}[digits-cnn]"].n == {"remaining": 72, "forgotten": 12}[side]
        ceiling = unscrubbed[f"integrity_ceiling_{side}[digits-cnn]"].value
        moved = scrubbed[f"integrity_{side}[digits-cnn]"].value
        # three steps move a model, but less than other noise does
        assert ceiling is not None and moved is not None and 0 < moved < ceiling


def test_near_and_far_classes_are_told_apart(evidence: Evidence) -> None:
    """Of the remaining classes 8 and 9 are near, the other seven far."""
    unscrubbed, scrubbed = (evidence.record.models[name].metrics for name in ("unscrubbed", "scrubbed"))
    for of, floor_n in (("near", 16), ("far", 56)):
        floor = unscrubbed[f"integrity_{of}[digits-cnn]"]
        assert (floor.value, floor.n) == (0, floor_n)
    for found, name in ((scrubbed, "integrity"), (unscrubbed, "integrity_ceiling")):
        near, far, both = (found[f"{name}_{of}[digits-cnn]"] for of in ("near", "far", "remaining"))
        assert near.value is not None and far.value is not None and near.value != far.value
        assert (near.n, far.n, both.n) == (30, 105, 135)
        assert (near.value * 30 + far.value * 105) / 135 == pytest.approx(both.value, rel=1e-5)


def test_the_near_are_those_that_are_named(digits: Path, run: Path, classifier: Path) -> None:
    """By hand: the images of 8 and 9 of both models, in pairs."""
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier, near=("9", "8")), scrubbed, CPU)
    before = evaluate(scrubbed.unscrubbed, bench)
    after = evaluate(scrubbed.scrubbed, bench, before.samples)
    pairs = [
        (bench.features(one[None]) - bench.features(other[None])).norm().item()
        for one, other, label in zip(
            before.samples.remain.images, after.samples.remain.images, after.samples.remain.labels, strict=True
        )
        if label in (8, 9)
    ]
    assert after.metrics["integrity_near[digits-cnn]"].value == pytest.approx(sum(pairs) / 30, rel=1e-4)


def test_figures_are_of_the_images_they_name(digits: Path, run: Path, classifier: Path) -> None:
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    figures = evaluate(scrubbed.scrubbed, bench)
    forget, remain = (
        bench.features(torch.from_numpy(read_images(data, 8, 1).images)) for data in (scrubbed.forget, scrubbed.remain)
    )
    made = {side: bench.features(getattr(figures.samples, side).images) for side in ("forget", "remain")}
    assert len(forget) == 183 and len(remain) == 1614
    expected = {
        "frechet_distance": metrics.frechet_distance(remain, made["remain"]),
        "kernel_distance": metrics.kernel_distance(remain, made["remain"], seed=0),
        "precision": metrics.precision_recall(remain, made["remain"], k=3)[0],
        "recall": metrics.precision_recall(remain, made["remain"], k=3)[1],
        "nearest_to_forget": metrics.nearest_distance(forget, made["forget"]).mean(),
    }
    for name, value in expected.items():
        assert figures.metrics[f"{name}[digits-cnn]"].value == pytest.approx(value.item(), rel=1e-6), name


def test_every_image_has_noise_of_its_own(base_model: Path) -> None:
    model = load_model(ModelConfig(str(base_model), null_class=10))
    images = sample(model, [3] * 22, SamplingConfig(num_inference_steps=2, batch_size=16))
    # farther apart than rounding: a batch of another size rounds otherwise
    assert torch.nn.functional.pdist(images.flatten(1)).min() > 0.1


def test_a_class_by_itself_is_judged_on_its_own_samples(digits: Path, run: Path, classifier: Path) -> None:
    """Two classes forgotten: P_psi of each, by hand from the images, and the worse of the two."""
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    bench = dataclasses.replace(
        bench, forget_conditions={c: [c] for c in (3, 7)}, remain_conditions={c: [c] for c in (0, 1, 2, 4, 5, 6, 8, 9)}
    )
    figures = evaluate(scrubbed.scrubbed, bench)
    judge, shown = bench.classifier, figures.samples
    by_hand: dict[str, list[float]] = {"3": [], "7": []}
    for image, label in zip(shown.forget.images, shown.forget.labels.tolist(), strict=True):
        by_hand[str(label)].append(judge.probabilities(image[None])[0, label].item())
    found = figures.metrics["p_psi"].by_class
    assert {name: len(values) for name, values in by_hand.items()} == {"3": 12, "7": 12}
    for name, values in by_hand.items():
        assert found[name].value == pytest.approx(sum(values) / 12, rel=1e-5) and found[name].n == 12
    worst = max(by_hand, key=lambda name: sum(by_hand[name]))
    assert figures.metrics["p_psi_worst_class"].of_class == worst
    assert figures.metrics["p_psi_worst_class"].value == found[worst].value

    right: dict[str, list[bool]] = {name: [] for name in "01245689"}
    for image, label in zip(shown.remain.images, shown.remain.labels.tolist(), strict=True):
        right[str(label)].append(judge.probabilities(image[None])[0].argmax().item() == label)
    kept = figures.metrics["accuracy_remaining"].by_class
    assert {name: kept[name].value for name in right} == {name: sum(values) / 15 for name, values in right.items()}
    assert figures.metrics["accuracy_worst_class"].value == min(sum(values) / 15 for values in right.values())


def test_only_images_of_the_asked_classes_are_loaded(digits: Path, base_model: Path) -> None:
    """Before they are counted: the first five of a class that is one in ten."""
    data = Dataset.open(digits / "data")
    model = load_model(ModelConfig(str(base_model), null_class=10))
    found = Images.of_data(data, model, 5, labels=[7])
    assert found.labels.tolist() == found.conditions == [7] * 5
    sevens = {data.read(i).image.tobytes() for i in range(len(data)) if data.labels[i] == 7}
    for image in found.images:
        assert ((image[0] + 1) * 127.5).round().to(torch.uint8).numpy().tobytes() in sevens
    assert len(Images.of_data(data, model, labels=[7, 8])) == int(((data.labels == 7) | (data.labels == 8)).sum())


def test_the_weights_evaluated_are_the_weights_saved(evidence: Evidence, run: Path, base_model: Path) -> None:
    entries = evidence.record.models
    assert entries["scrubbed"].weights_sha256 == sha256_of_file(run / "model")
    assert entries["unscrubbed"].weights_sha256 == sha256_of_file(base_model)
    assert entries["scrubbed"].weights_sha256 != entries["unscrubbed"].weights_sha256


def test_samples_that_are_not_finite_are_counted_not_averaged(digits: Path, run: Path, classifier: Path) -> None:
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    embedding = cast(torch.nn.Embedding, scrubbed.scrubbed.module.class_embedding)
    sound = evaluate(scrubbed.scrubbed, bench)
    original = sound.samples
    with torch.no_grad():
        embedding.weight[5] = torch.nan
    found = evaluate(scrubbed.scrubbed, bench, original).metrics
    # fifteen samples of each of nine classes
    assert found["non_finite_samples"].value == 15
    assert found["black_samples"].n == found["non_finite_samples"].n - 15 == 132
    assert found["accuracy_remaining"].n == 120 and found["accuracy_remaining"].value is not None
    assert found["p_psi"] == sound.metrics["p_psi"]
    frechet = found["frechet_distance[digits-cnn]"]
    assert frechet.value is None and frechet.n == 120 and "at least 129 samples" in str(frechet.reason)
    with torch.no_grad():
        embedding.weight[3] = torch.nan
    found = evaluate(scrubbed.scrubbed, bench, original).metrics
    assert found["p_psi"].value is None and found["p_psi"].reason == "no finite sample"
    assert found["entropy"].value is None and found["entropy"].reason == "no finite sample"
    # a class without a figure is worse than any
    assert (found["accuracy_worst_class"].of_class, found["accuracy_worst_class"].value) == ("5", None)
    for name in ("p_psi", "entropy", "integrity_forgotten[digits-cnn]", "nearest_to_forget[digits-cnn]"):
        assert (found[name].value, found[name].n, found[name].reason) == (None, 0, "no finite sample"), name


def test_black_samples_are_counted(digits: Path, run: Path, classifier: Path) -> None:
    scrubbed = FinishedScrub.open(run)
    one_step = SamplingConfig(num_inference_steps=1)
    bench = make_bench(tiny_evaluation(run, digits, classifier, sampling=one_step), scrubbed, CPU)
    sound = evaluate(scrubbed.unscrubbed, bench)
    assert (sound.metrics["black_samples"].value, sound.metrics["black_samples"].n) == (0, 147)
    with torch.no_grad():  # so much noise is seen that the picture beneath it is black
        cast(torch.nn.Conv2d, scrubbed.scrubbed.module.conv_out).bias += 1000  # pyright: ignore[reportOperatorIssue]
    found = evaluate(scrubbed.scrubbed, bench, sound.samples).metrics["black_samples"]
    assert (found.value, found.n) == (147, 147)


def test_an_unscrubbed_model_that_draws_black_is_refused(digits: Path, run: Path, classifier: Path) -> None:
    """NaN is drawn black; one of a hundred may be."""
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    with torch.no_grad():
        cast(torch.nn.Embedding, scrubbed.unscrubbed.module.class_embedding).weight[5] = torch.nan

    def evaluated(num_sound: int) -> Figures:
        config = dataclasses.replace(
            bench.config, num_forget_samples_per_class=num_sound, num_remain_samples_per_class=1
        )
        return evaluate(scrubbed.unscrubbed, dataclasses.replace(bench, config=config, remain_conditions={5: [5]}))

    assert evaluated(99).metrics["non_finite_samples"].value == 1
    with pytest.raises(ConfigError, match=r"draws 1 of 99 pictures all black \(1 samples are not finite\)"):
        evaluated(98)


def test_a_ceiling_is_there_where_each_class_is_asked_for_once(digits: Path, run: Path, classifier: Path) -> None:
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    options = dataclasses.replace(bench.config, num_remain_samples_per_class=1)
    bench = dataclasses.replace(bench, config=options)
    ceiling = evaluate(scrubbed.unscrubbed, bench).metrics["integrity_ceiling_remaining[digits-cnn]"]
    assert ceiling.value is not None and ceiling.value > 0 and ceiling.n == 9


@pytest.mark.parametrize(("num_samples", "has_one"), [(3, False), (4, True)])
def test_precision_needs_more_samples_than_neighbours(
    digits: Path, run: Path, classifier: Path, num_samples: int, has_one: bool
) -> None:
    scrubbed = FinishedScrub.open(run)
    bench = make_bench(tiny_evaluation(run, digits, classifier), scrubbed, CPU)
    config = dataclasses.replace(
        bench.config, num_forget_samples_per_class=1, num_remain_samples_per_class=num_samples, relearn=False
    )
    found = evaluate(scrubbed.unscrubbed, dataclasses.replace(bench, config=config, remain_conditions={5: [5]})).metrics
    for name in ("precision[digits-cnn]", "recall[digits-cnn]"):
        assert (found[name].value is not None) == has_one and found[name].n == num_samples
        assert has_one or str(found[name].reason).startswith("needs at least 4 samples on either side, there are ")


def test_single_samples_are_judged_by_membership_and_distance(
    digits: Path, base_model: Path, classifier: Path, tmp_path: Path
) -> None:
    split(digits / "data", tmp_path / "sets", request=Request((Selector(keys=("digit-00003", "digit-00013")),)))
    held_out = Request((Selector(keys=tuple(f"digit-{i:05d}" for i in range(100))),))
    split(
        tmp_path / "sets" / "remain",
        tmp_path / "parts",
        request=Request(
            (
                Selector(
                    keys=tuple(key for key in held_out.selectors[0].keys if key not in ("digit-00003", "digit-00013"))
                ),
            )
        ),
    )
    config = tiny.tiny_config(digits, base_model, tmp_path / "run")
    config = dataclasses.replace(
        config, forget=str(tmp_path / "sets" / "forget"), remain=str(tmp_path / "parts" / "remain")
    )
    run_scrub(config)
    judged = tiny_evaluation(tmp_path / "run", digits, classifier, held_out=str(tmp_path / "parts" / "forget"))
    record = run_evaluate(judged).record
    assert record.forgotten_classes == [] and record.forget.num_samples == 2
    found = record.models["scrubbed"].metrics
    assert "p_psi" not in found
    # both are 3s, and so are 9 of the held-out ones
    same_class = sum(label == 3 for label in Dataset.open(tmp_path / "parts" / "forget").labels)
    assert found["membership_auc"].n == 2 + same_class
    assert found["nearest_to_forget[digits-cnn]"].n == 12
    defaults = dataclasses.replace(
        judged,
        judge=dataclasses.replace(
            judged.judge, thresholds=(), retrained=str(tiny.make_pipeline(tmp_path / "other", seed=2))
        ),
    )
    first = run_evaluate(defaults).record.thresholds[0]
    assert first.threshold == "membership_gap <= retrained + 0.05"
    leaking = tiny_evaluation(tmp_path / "run", digits, classifier, held_out=str(digits / "data"))
    with pytest.raises(ConfigError, match="held-out samples are those that no model was trained on"):
        run_evaluate(leaking)
