"""Means, shares and counts of samples as figures, with their intervals, over all and by class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from .bench import Measured
from .images import NO_SAMPLE
from .intervals import count_interval, score_interval
from .metrics import Measurement, alone, estimated, measured


def mean_by_class(
    of: Measured, values_N: Tensor, labels_N: Tensor, classes: list[int], seed: int | None
) -> Measurement:
    """The mean of numbers in [0, 1], and of each class's by itself, with intervals."""
    names = of.bench.classifier.card.classes
    groups = [names[label] for label in labels_N.tolist()]
    return mean_by(values_N, groups, [names[label] for label in classes], seed)


def mean_by(values_N: Tensor, groups: Sequence[str], names: Sequence[str], seed: int | None) -> Measurement:
    """The same; groups: the name of the group [N] of each."""
    by_class = {
        name: share(values_N[torch.tensor([group == name for group in groups], dtype=torch.bool)], seed)
        for name in names
    }
    return dataclasses.replace(share(values_N, seed), by_class=by_class)


def share(values_N: Tensor, seed: int | None) -> Measurement:
    """The mean alone."""
    n = len(values_N)
    if not n:
        return Measurement(None, 0, seed, reason=NO_SAMPLE)
    found = measured(values_N.mean(), n, seed=seed)
    if found.value is None:
        return found
    low, high = score_interval(found.value, n)
    return estimated(dataclasses.replace(found, low=low, high=high), values_N / n)


def worst_of(measurement: Measurement, *, highest: bool) -> Measurement:
    """The class with the highest, or lowest, figure; one without a figure is worse than any."""
    sign = -1 if highest else 1

    def order(name: str) -> float:
        value = measurement.by_class[name].value
        return float("-inf") if value is None else sign * value

    name = min(measurement.by_class, key=order)
    # another model's worst may be of another class: they are not in step
    return dataclasses.replace(alone(measurement.by_class[name]), of_class=name)


def count_all(counts_N: Tensor, seed: int | None) -> Measurement:
    """What samples count together."""
    low, high = count_interval(counts_N)
    return estimated(Measurement(float(counts_N.sum()), len(counts_N), seed, low=low, high=high), counts_N)
