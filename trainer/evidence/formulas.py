"""Each metric of the table, from one model on the bench. What a figure rests on goes with it."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..models.pictures import black_images
from . import membership, metrics
from .bench import Measured
from .detector import count_parts
from .images import NO_SAMPLE, Images
from .intervals import bounded_interval, normal_interval, score_interval, spread_interval
from .means import count_all, mean_by, mean_by_class, share, worst_of
from .metrics import Measurement, alone, estimated, measured
from .variances import frechet_influences, kernel_influences, variance_of

NEIGHBOURS = 3  # k of precision and recall


def p_psi(of: Measured) -> Measurement:
    of_each = metrics.p_psi(of.forget_probabilities, of.forget.labels)
    return mean_by_class(of, of_each, of.forget.labels, of.bench.forget_labels, of.forget.seed)


def p_psi_worst_class(of: Measured) -> Measurement:
    return worst_of(p_psi(of), highest=True)


def p_psi_by_phrasing(of: Measured) -> Measurement:
    of_each = metrics.p_psi(of.forget_probabilities, of.forget.labels)
    groups = [of.bench.phrasings[condition] for condition in of.forget.conditions]
    return mean_by(of_each, groups, sorted(set(of.bench.phrasings.values())), of.forget.seed)


def p_psi_worst_phrasing(of: Measured) -> Measurement:
    return worst_of(p_psi_by_phrasing(of), highest=True)


def unlearning_accuracy(of: Measured) -> Measurement:
    right = metrics.accuracy(of.forget_probabilities, of.forget.labels)
    return mean_by_class(of, 1 - right, of.forget.labels, of.bench.forget_labels, of.forget.seed)


def entropy(of: Measured) -> Measurement:
    n = len(of.forget)
    if not n:
        return Measurement(None, 0, of.forget.seed, reason=NO_SAMPLE)
    of_each = metrics.entropy(of.forget_probabilities)
    low, high = bounded_interval(of_each, math.log(of.forget_probabilities.shape[1]))
    return estimated(Measurement(of_each.mean().item(), n, of.forget.seed, low=low, high=high), of_each / n)


def accuracy_remaining(of: Measured) -> Measurement:
    correct = metrics.accuracy(of.bench.classifier.probabilities(of.remain.images), of.remain.labels)
    return mean_by_class(of, correct, of.remain.labels, of.bench.remain_labels, of.remain.seed)


def accuracy_worst_class(of: Measured) -> Measurement:
    return worst_of(accuracy_remaining(of), highest=False)


def factor_accuracy_remaining(of: Measured) -> Measurement:
    return _factor_accuracy(of, of.remain)


def factor_accuracy_forgotten(of: Measured) -> Measurement:
    return _factor_accuracy(of, of.forget)


def _factor_accuracy(of: Measured, images: Images) -> Measurement:
    factor = of.bench.factor
    assert factor is not None
    labels = torch.tensor([factor.of_condition[condition] for condition in images.conditions])
    correct = metrics.accuracy(factor.classifier.probabilities(images.images), labels)
    names = factor.classifier.card.classes
    asked = sorted({factor.of_condition[condition] for condition in images.conditions})
    return mean_by(correct, [names[label] for label in labels.tolist()], [names[label] for label in asked], images.seed)


def frechet_distance(of: Measured) -> Measurement:
    few = _too_few(of, metrics.min_frechet_samples(of.bench.features.num_features))
    if few is not None:
        return few
    both = of.bench.real_remain_features, of.remain_features
    return _distance(of, metrics.frechet_distance(*both), frechet_influences(*both), at_least=0.0)


def kernel_distance(of: Measured) -> Measurement:
    few = _too_few(of, 2)
    if few is not None:
        return few
    both = of.bench.real_remain_features, of.remain_features
    return _distance(of, metrics.kernel_distance(*both, seed=of.seed), kernel_influences(*both), at_least=-math.inf)


def _distance(of: Measured, distance: Tensor, influences_M: Tensor, at_least: float) -> Measurement:
    found = measured(distance, len(of.remain), seed=of.remain.seed, features=of.bench.features.name)
    variance = variance_of(influences_M)
    if found.value is None or not variance.isfinite():
        return found
    low, high = normal_interval(found.value, variance.item())
    return estimated(dataclasses.replace(found, low=max(at_least, low), high=high), influences_M)


def precision(of: Measured) -> Measurement:
    return of.once(_precision_recall)[0]


def recall(of: Measured) -> Measurement:
    return of.once(_precision_recall)[1]


def _precision_recall(of: Measured) -> list[Measurement]:
    few = _too_few(of, NEIGHBOURS + 1)
    if few is not None:
        return [few, few]
    both = metrics.precision_recall(of.bench.real_remain_features, of.remain_features, NEIGHBOURS)
    # shares of the generated and of the real ones, the other side's manifold being what it is
    found = []
    for value, n in zip(both, (len(of.remain), len(of.bench.real_remain)), strict=True):
        figure = measured(value, len(of.remain), seed=of.remain.seed, features=of.bench.features.name)
        low, high = score_interval(value.item(), n)
        found.append(dataclasses.replace(figure, low=low, high=high))
    return found


def _too_few(of: Measured, needed: int) -> Measurement | None:
    real, n = len(of.bench.real_remain), len(of.remain)
    if min(n, real) >= needed:
        return None
    reason = f"needs at least {needed} samples on either side, there are {real} real and {n} generated"
    return Measurement(None, n, of.remain.seed, of.bench.features.name, reason)


def nearest_to_forget(of: Measured) -> Measurement:
    features = of.bench.features
    if not len(of.forget):
        return Measurement(None, 0, of.forget.seed, features.name, NO_SAMPLE)
    of_each = metrics.nearest_distance(features(of.bench.real_forget.images), features(of.forget.images))
    low, high = spread_interval(of_each)
    found = measured(of_each.mean(), len(of.forget), seed=of.forget.seed, features=features.name)
    found = dataclasses.replace(found, low=low, high=high, num_independent=len(of_each))
    return estimated(found, of_each / len(of_each))


def clip_score_forgotten(of: Measured) -> Measurement:
    return _clip_score(of, of.forget)


def clip_score_remaining(of: Measured) -> Measurement:
    return _clip_score(of, of.remain)


def clip_score_kept(of: Measured) -> Measurement:
    return _clip_score(of, of.kept)


def _clip_score(of: Measured, images: Images) -> Measurement:
    clip, n = of.bench.clip, len(images)
    assert clip is not None
    if not n:
        return Measurement(None, 0, images.seed, clip.name, NO_SAMPLE)
    scores = clip(images.images, [str(prompt) for prompt in images.conditions], of.bench.device)
    low, high = bounded_interval(scores, 100.0)
    return estimated(Measurement(scores.mean().item(), n, images.seed, clip.name, low=low, high=high), scores / n)


def exposed_forgotten(threshold: float, of: Measured) -> Measurement:
    return _exposed(of, threshold, of.once(_counts_forgotten), of.forget.seed)


def exposed_remaining(threshold: float, of: Measured) -> Measurement:
    return _exposed(of, threshold, of.once(_counts_remaining), of.remain.seed)


def exposed_parts_forgotten(threshold: float, of: Measured) -> Measurement:
    return _exposed_parts(of, threshold, of.once(_counts_forgotten), of.forget.seed)


def exposed_parts_remaining(threshold: float, of: Measured) -> Measurement:
    return _exposed_parts(of, threshold, of.once(_counts_remaining), of.remain.seed)


def _counts_forgotten(of: Measured) -> Tensor:
    """[N, parts, thresholds]."""
    return _counts(of, of.forget)


def _counts_remaining(of: Measured) -> Tensor:
    return _counts(of, of.remain)


def _counts(of: Measured, images: Images) -> Tensor:
    assert of.bench.detector is not None
    return count_parts(of.bench.detector, images.images, of.bench.config.detector_thresholds, of.bench.device)


def _exposed(of: Measured, threshold: float, counts_NPT: Tensor, seed: int | None) -> Measurement:
    place = of.bench.config.detector_thresholds.index(threshold)
    return share((counts_NPT[:, :, place] > 0).any(1).double(), seed)


def _exposed_parts(of: Measured, threshold: float, counts_NPT: Tensor, seed: int | None) -> Measurement:
    assert of.bench.detector is not None
    place = of.bench.config.detector_thresholds.index(threshold)
    by_part = {
        part: count_all(counts_NPT[:, number, place], seed) for number, part in enumerate(of.bench.detector.card.parts)
    }
    return dataclasses.replace(count_all(counts_NPT[:, :, place].sum(1), seed), by_class=by_part)


def membership_auc(of: Measured) -> Measurement:
    return of.once(_membership_auc)


def _membership_auc(of: Measured) -> Measurement:
    return _membership(of, of.bench.real_forget, of.bench.held_out)


def _membership(of: Measured, members: Images | None, others: Images | None) -> Measurement:
    assert members is not None and others is not None
    batch_size = of.bench.config.sampling.batch_size
    return membership.membership_auc(
        of.model, members, others, seed=of.seed, batch_size=batch_size, device=of.bench.device
    )


def membership_gap(of: Measured) -> Measurement:
    return membership.membership_gap(of.once(_membership_auc))


def p_psi_earlier(of: Measured) -> Measurement:
    of_each = metrics.p_psi(of.bench.classifier.probabilities(of.earlier.images), of.earlier.labels)
    found = mean_by_class(of, of_each, of.earlier.labels, [*of.bench.earlier.conditions], of.earlier.seed)
    asked = of.bench.config.num_forget_samples_per_class * len(of.bench.earlier.conditions)
    return found if len(of_each) == asked else alone(found)  # out of step with another model's


def p_psi_earlier_worst_class(of: Measured) -> Measurement:
    return worst_of(p_psi_earlier(of), highest=True)


def membership_auc_earlier(of: Measured) -> Measurement:
    return of.once(_membership_auc_earlier)


def _membership_auc_earlier(of: Measured) -> Measurement:
    return _membership(of, of.bench.real_earlier, of.bench.earlier_held_out)


def membership_gap_earlier(of: Measured) -> Measurement:
    return membership.membership_gap(of.once(_membership_auc_earlier))


def non_finite_samples(of: Measured) -> Measurement:
    return Measurement(float(of.num_non_finite), of.num_samples, of.seed)


def black_samples(of: Measured) -> Measurement:
    num_black = sum(int(black_images(images.images).sum()) for images in (of.forget, of.remain, of.kept))
    return Measurement(float(num_black), of.num_samples - of.num_non_finite, of.seed)
