"""One model measured: has it forgotten, does it still know the rest. The same samples, tests and judge for every model.

D_f either holds whole classes, of which nothing remains, or single samples of classes that stay. For a class, P_psi
says whether the model still makes it; for samples, membership and the distance to the nearest generation say whether
it still knows them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import JudgeConfig
from ..models.conditions import Condition
from ..models.model import Model
from ..models.sampling import CHUNK, sample
from ..run.provenance import DataStamp
from . import metrics
from .classifier import Classifier
from .features import Features
from .images import Asked, Images
from .intervals import score_interval
from .membership import membership_auc, membership_gap
from .metrics import Measurement, measured
from .relearning import RelearningPoint, relearn

NEIGHBOURS = 3  # k of precision and recall
NO_SAMPLE = "no finite sample"


@dataclass(frozen=True)
class Bench:
    """What every model is measured with."""

    config: JudgeConfig
    classifier: Classifier
    features: Features
    forget_conditions: dict[int, list[Condition]]
    """What a model is told to make samples that stand for D_f, by the class that the judge should see: D_f's."""
    remain_conditions: dict[int, list[Condition]]
    """The same for D_r."""
    forgets_classes: bool
    """Whether nothing remains of them; else single samples are forgotten."""
    real_remain: Images
    real_forget: Images
    held_out: Images | None
    """Of the forgotten classes, seen by no model."""
    held_out_stamp: DataStamp | None
    """The dataset they are of."""
    device: torch.device

    @property
    def forget_labels(self) -> list[int]:
        return [*self.forget_conditions]

    @property
    def remain_labels(self) -> list[int]:
        return [*self.remain_conditions]

    def metric_names(self) -> list[str]:
        """All that is computed, before it is."""
        return metric_names(self.config, self.features.name, self.forgets_classes)


def metric_names(config: JudgeConfig, features: str, forgets_classes: bool) -> list[str]:
    """The metrics of a scrubbed model; a metric that rests on features carries their extractor's name."""
    of_class = ["p_psi", "p_psi_worst_class", "entropy"] if forgets_classes else []
    on_features = [
        "frechet_distance",
        "precision",
        "recall",
        "integrity_remaining",
        "integrity_forgotten",
        "nearest_to_forget",
    ]
    tests = ["membership_auc", "membership_gap"] if config.held_out else []
    return [
        *of_class,
        "accuracy_remaining",
        "accuracy_worst_class",
        *(f"{name}[{features}]" for name in on_features),
        *tests,
        "non_finite_samples",
    ]


@dataclass(frozen=True)
class Samples:
    """What a model generates for the bench."""

    forget: Images
    remain: Images


@dataclass(frozen=True)
class Figures:
    """A model's figures, and the samples behind them."""

    metrics: dict[str, Measurement]
    relearning: list[RelearningPoint]
    samples: Samples
    num_non_finite: int


def evaluate(model: Model, bench: Bench, original: Samples | None = None) -> Figures:
    """Generates the bench's samples with a model and measures it. All ranks call it and get the same.

    original: the original model's samples, from the same noise and labels; None for the original itself, whose
    integrity is then the floor (the same again) and which also gives the ceiling (other noise).
    """
    config, seed = bench.config, bench.config.sampling.seed
    samples = Samples(
        _generate(model, bench, _each(bench.forget_conditions, config.num_forget_samples_per_class), seed),
        _generate(model, bench, _each(bench.remain_conditions, config.num_remain_samples_per_class), seed + 1),
    )
    forget, remain = samples.forget.where(samples.forget.is_finite), samples.remain.where(samples.remain.is_finite)
    num_non_finite = len(samples.forget) + len(samples.remain) - len(forget) - len(remain)
    found = _of_classifier(bench, forget, remain) | _of_features(bench, forget, remain)
    found |= _integrity(model, bench, samples, original)
    if bench.held_out is not None:
        found["membership_auc"] = membership_auc(
            model, bench.real_forget, bench.held_out, seed=seed, device=bench.device
        )
        found["membership_gap"] = membership_gap(found["membership_auc"])
    found["non_finite_samples"] = Measurement(float(num_non_finite), len(samples.forget) + len(samples.remain), seed)
    points: list[RelearningPoint] = []
    if config.relearn and bench.forgets_classes:
        some = bench.real_forget.where(torch.arange(min(config.relearning.num_images, len(bench.real_forget))))
        shown = sorted(set(some.labels.tolist()))
        points = relearn(
            model,
            bench.classifier,
            some,
            Asked.in_turn({label: bench.forget_conditions[label] for label in shown}, config.relearning.num_samples),
            config.relearning,
            config.sampling,
            device=bench.device,
        )
    return Figures(found, points, samples, num_non_finite)


def _each(conditions: dict[int, list[Condition]], count: int) -> Asked:
    """So many of each class, in turn."""
    return Asked.in_turn(conditions, count * len(conditions))


def _generate(model: Model, bench: Bench, wanted: Asked, seed: int) -> Images:
    sampling = dataclasses.replace(bench.config.sampling, seed=seed)
    images = sample(model, wanted.conditions, sampling, device=bench.device)
    return Images(images, torch.tensor(wanted.labels), wanted.conditions)


def _of_classifier(bench: Bench, forget: Images, remain: Images) -> dict[str, Measurement]:
    """What the classifier sees in finite samples."""
    seed = bench.config.sampling.seed
    found: dict[str, Measurement] = {}
    if bench.forgets_classes:
        probabilities = bench.classifier.probabilities(forget.images)
        of_each = metrics.p_psi(probabilities, forget.labels)
        found["p_psi"] = _mean(bench, of_each, forget.labels, bench.forget_labels, seed)
        found["p_psi_worst_class"] = _worst(found["p_psi"], highest=True)
        found["entropy"] = measured(
            metrics.entropy(probabilities), len(forget), seed=seed, why_not="" if len(forget) else NO_SAMPLE
        )
    correct = metrics.accuracy(bench.classifier.probabilities(remain.images), remain.labels)
    found["accuracy_remaining"] = _mean(bench, correct, remain.labels, bench.remain_labels, seed + 1)
    found["accuracy_worst_class"] = _worst(found["accuracy_remaining"], highest=False)
    return found


def _mean(bench: Bench, values_N: Tensor, labels_N: Tensor, classes: list[int], seed: int) -> Measurement:
    """The mean of numbers in [0, 1], and of each class's by itself, with intervals."""

    def mean(values: Tensor) -> Measurement:
        n = len(values)
        if not n:
            return Measurement(None, 0, seed, reason=NO_SAMPLE)
        value = values.mean().item()
        low, high = score_interval(value, n)
        return Measurement(value, n, seed, low=low, high=high)

    by_class = {bench.classifier.card.classes[label]: mean(values_N[labels_N == label]) for label in classes}
    return dataclasses.replace(mean(values_N), by_class=by_class)


def _worst(measurement: Measurement, *, highest: bool) -> Measurement:
    """The class with the highest, or lowest, figure; one without a figure is worse than any."""
    sign = -1 if highest else 1

    def order(name: str) -> float:
        value = measurement.by_class[name].value
        return float("-inf") if value is None else sign * value

    name = min(measurement.by_class, key=order)
    return dataclasses.replace(measurement.by_class[name], of_class=name)


def _of_features(bench: Bench, forget: Images, remain: Images) -> dict[str, Measurement]:
    """Quality of the remaining classes against real images, and how near to D_f the forgotten ones come."""
    name, seed = bench.features.name, bench.config.sampling.seed
    real, generated = bench.features(bench.real_remain.images), bench.features(remain.images)
    n = len(generated)

    def too_few(needed: int, at: int) -> Measurement:
        reason = f"needs at least {needed} samples on either side, there are {len(real)} real and {n} generated"
        return Measurement(None, n, at, name, reason)

    found: dict[str, Measurement] = {}
    needed = metrics.min_frechet_samples(bench.features.num_features)
    if min(n, len(real)) < needed:
        found[f"frechet_distance[{name}]"] = too_few(needed, seed + 1)
    else:
        distance = metrics.frechet_distance(real, generated)
        found[f"frechet_distance[{name}]"] = measured(distance, n, seed=seed + 1, features=name)
    if min(n, len(real)) <= NEIGHBOURS:
        found |= {f"{metric}[{name}]": too_few(NEIGHBOURS + 1, seed + 1) for metric in ("precision", "recall")}
    else:
        precision, recall = metrics.precision_recall(real, generated, NEIGHBOURS)
        found[f"precision[{name}]"] = measured(precision, n, seed=seed + 1, features=name)
        found[f"recall[{name}]"] = measured(recall, n, seed=seed + 1, features=name)
    nearest = Measurement(None, 0, seed, name, NO_SAMPLE)
    if len(forget):
        distance = metrics.nearest_distance(bench.features(bench.real_forget.images), bench.features(forget.images))
        nearest = measured(distance, len(forget), seed=seed, features=name)
    return found | {f"nearest_to_forget[{name}]": nearest}


def _integrity(model: Model, bench: Bench, samples: Samples, original: Samples | None) -> dict[str, Measurement]:
    """Feature distance to what the original makes from the same noise; for the original itself, floor and ceiling."""
    name, seed = bench.features.name, bench.config.sampling.seed
    found = {}
    for side, first_seed in (("remaining", seed + 1), ("forgotten", seed)):
        ours = samples.remain if side == "remaining" else samples.forget
        if original is None:
            again = Asked(ours.conditions[:CHUNK], ours.labels[:CHUNK].tolist())
            theirs = _generate(model, bench, again, first_seed)
            ceiling = ours.where(ours.is_finite)
            distance = metrics.other_seed_distance(bench.features(ceiling.images), ceiling.labels)
            found[f"integrity_ceiling_{side}[{name}]"] = measured(
                distance,
                len(ceiling),
                why_not="needs at least 2 finite samples of each label",
                seed=first_seed,
                features=name,
            )
        else:
            theirs = original.remain if side == "remaining" else original.forget
        ours = ours.where(torch.arange(len(theirs)))
        both = ours.is_finite & theirs.is_finite
        n = int(both.sum())
        distance = metrics.paired_distance(bench.features(ours.images[both]), bench.features(theirs.images[both]))
        found[f"integrity_{side}[{name}]"] = measured(
            distance, n, why_not="" if n else NO_SAMPLE, seed=first_seed, features=name
        )
    return found
