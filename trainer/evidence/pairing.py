"""Two models' figures from the same noise go up and down together: how much, for the interval of their difference."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from .intervals import borne_out, standard_error
from .metrics import Estimate, Measurement, alone

Influences = dict[str, dict[str, Tensor]]
"""Of the samples on each figure: by metric, then by class; on that of all classes under ""."""


class Sampled(Protocol):
    """A model's figures, and what its samples did to them."""

    @property
    def metrics(self) -> Mapping[str, Measurement]: ...
    @property
    def influences(self) -> Influences: ...
    @property
    def num_non_finite(self) -> int: ...


def taken_apart(found: Mapping[str, Measurement]) -> tuple[dict[str, Measurement], Influences]:
    """(the figures alone, the influences that they were computed with)."""
    influences: Influences = {}
    for metric, figure in found.items():
        parts = {"": figure} | figure.by_class
        estimates = {name: part for name, part in parts.items() if isinstance(part, Estimate)}
        own = {name: one.influences_N for name, one in estimates.items() if one.influences_N is not None}
        if own:
            influences[metric] = own
    return {metric: alone(figure) for metric, figure in found.items()}, influences


def related(models: Mapping[str, Sampled]) -> dict[str, dict[str, Measurement]]:
    """Each model's figures, with their correlations with the other models', all sampled from the same noise.

    A model with samples that are not finite goes without: those are left out, and the rest is out of step.
    """
    sound = {name: model for name, model in models.items() if not model.num_non_finite}
    return {
        name: {
            metric: _beside(metric, figure, model, {k: v for k, v in sound.items() if k != name and name in sound})
            for metric, figure in model.metrics.items()
        }
        for name, model in models.items()
    }


def _beside(metric: str, figure: Measurement, own: Sampled, others: Mapping[str, Sampled]) -> Measurement:
    def of(part: Measurement, name: str) -> dict[str, float]:
        found = {}
        for other, model in others.items():
            ours, theirs = (one.influences.get(metric, {}).get(name) for one in (own, model))
            if ours is not None and theirs is not None:
                whole = model.metrics[metric]
                found[other] = correlation(part, ours, whole.by_class[name] if name else whole, theirs)
        return found

    by_class = {name: dataclasses.replace(part, correlation=of(part, name)) for name, part in figure.by_class.items()}
    return dataclasses.replace(figure, by_class=by_class, correlation=of(figure, ""))


def correlation_shown(ours: Measurement, theirs: Measurement, model: str, confidence: float | None = None) -> float:
    """What the samples of both bear out of `ours`' correlation with `theirs`, which is the figure of `model`."""
    n = min(one.n if one.num_independent is None else one.num_independent for one in (ours, theirs))
    return borne_out(ours.correlation.get(model, 0.0), n, confidence)


def correlation(ours: Measurement, ours_N: Tensor, theirs: Measurement, theirs_N: Tensor) -> float:
    """Of two figures, by the influences of the same samples, for `intervals.difference_low`.

    An interval may be wider than the influences say (Wilson's of probabilities is): the covariance is taken as a share
    of what the intervals allow, so that a difference is never known better than by the influences themselves.
    """
    intervals = [(one.low, one.high) for one in (ours, theirs) if one.low is not None and one.high is not None]
    spread = (ours_N.norm() * theirs_N.norm()).item()
    if len(ours_N) != len(theirs_N) or len(intervals) < 2 or spread == 0:
        return 0.0
    covariance = (ours_N @ theirs_N).item()
    allowed = standard_error(intervals[0]) * standard_error(intervals[1])
    # the same on any machine: a product's last bits go by where its factors lie
    return round(covariance / max(spread, allowed), 9)
