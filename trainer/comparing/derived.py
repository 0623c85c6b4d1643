"""What follows from a model's figures and the references': how well it resists, how near it is, all in one number."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import torch

from ..evidence.bench import Bench, Samples
from ..evidence.evaluation import Figures
from ..evidence.images import Images
from ..evidence.intervals import spread_interval
from ..evidence.metrics import Measurement, measured, paired_distance
from ..evidence.relearning import RelearningPoint

RELEARNING_AREA, ERR, DISTANCE = "relearning_area", "err", "distance_to_retrained"


def derived(
    figures: Figures, unscrubbed: Mapping[str, Measurement], retrained: Samples | None, bench: Bench
) -> dict[str, Measurement]:
    """By name; what cannot be known is left out. retrained: the retrained model's samples."""
    found: dict[str, Measurement] = {}
    area = relearning_area(figures.relearning)
    if area is not None:
        found[RELEARNING_AREA] = Measurement(area, min(point.n for point in figures.relearning))
    harmonic = err(figures.metrics, unscrubbed, area)
    if harmonic is not None:
        found[ERR] = Measurement(harmonic, figures.metrics["p_psi"].n)
    if retrained is not None:
        found[DISTANCE] = distance_between(figures.samples, retrained, bench)
    return found


def relearning_area(points: Sequence[RelearningPoint]) -> float | None:
    """Mean height of the curve of P_psi over fine-tuning steps, by trapezoids; None where a point is missing."""
    curve = [(point.step, point.p_psi) for point in points if point.p_psi is not None]
    if len(curve) < 2 or len(curve) < len(points):
        return None
    pairs = itertools.pairwise(curve)
    return sum((end - start) * (first + last) / 2 for (start, first), (end, last) in pairs) / (
        curve[-1][0] - curve[0][0]
    )


def err(metrics: Mapping[str, Measurement], unscrubbed: Mapping[str, Measurement], area: float | None) -> float | None:
    """Harmonic mean of erasure, retention and robustness, each in [0, 1]; None where one of them is not measured.

    Erasure is 1 - P_psi, retention the accuracy on the rest as a share of the unscrubbed model's (1 at most),
    robustness 1 - the relearning area. A destroyed model has no retention, an untouched one no erasure: neither wins.
    """
    p_psi, kept, before = metrics.get("p_psi"), metrics.get("accuracy_remaining"), unscrubbed.get("accuracy_remaining")
    if area is None or p_psi is None or p_psi.value is None or kept is None or before is None:
        return None
    if kept.value is None or not before.value:
        return None
    parts = (1 - p_psi.value, min(1.0, kept.value / before.value), 1 - area)
    return 0.0 if min(parts) <= 0 else len(parts) / sum(1 / part for part in parts)


def distance_between(ours: Samples, theirs: Samples, bench: Bench) -> Measurement:
    """Mean feature distance between two models' images from the same noise and conditions, forgotten and remaining."""
    pairs = [_finite(ours.of_side(side), theirs.of_side(side)) for side in (0, 1)]
    mine, others = (torch.cat(images) for images in zip(*pairs, strict=True))
    if len(mine) == 0:
        return Measurement(None, 0, reason="no finite sample")
    of_each = paired_distance(bench.features(mine), bench.features(others))
    low, high = spread_interval(of_each)
    return dataclasses.replace(measured(of_each.mean(), len(mine), features=bench.features.name), low=low, high=high)


def _finite(ours: Images, theirs: Images) -> tuple[torch.Tensor, torch.Tensor]:
    rows = ours.is_finite & theirs.is_finite
    return ours.images[rows], theirs.images[rows]
