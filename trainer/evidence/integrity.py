"""Integrity: how far a model's pictures are from the original's of the same noise, with a floor and a ceiling."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from functools import partial

import torch

from . import metrics
from .bench import FORGOTTEN, KEPT, REMAINING, Measured, generate
from .images import NO_SAMPLE, Asked, Images
from .intervals import spread_interval
from .metrics import Measurement, estimated, measured

# of the floor, or so many more as fill a batch: in another batch an image would differ by rounding
_MIN_FLOOR_SAMPLES = 64
_OTHER_NOISE = 3  # than any side's


def integrity_remaining(of: Measured) -> Measurement:
    return _integrity(of, REMAINING, of.bench.remain_labels)


def integrity_near(of: Measured) -> Measurement:
    return _integrity(of, REMAINING, of.bench.near_labels)


def integrity_far(of: Measured) -> Measurement:
    return _integrity(of, REMAINING, of.bench.far_labels)


def integrity_forgotten(of: Measured) -> Measurement:
    return _integrity(of, FORGOTTEN, of.bench.forget_labels)


def integrity_ceiling_remaining(of: Measured) -> Measurement:
    return _integrity_ceiling(of, REMAINING, of.bench.remain_labels)


def integrity_ceiling_near(of: Measured) -> Measurement:
    return _integrity_ceiling(of, REMAINING, of.bench.near_labels)


def integrity_ceiling_far(of: Measured) -> Measurement:
    return _integrity_ceiling(of, REMAINING, of.bench.far_labels)


def integrity_ceiling_forgotten(of: Measured) -> Measurement:
    return _integrity_ceiling(of, FORGOTTEN, of.bench.forget_labels)


def integrity_kept(of: Measured) -> Measurement:
    return _integrity(of, KEPT, [-1])


def integrity_ceiling_kept(of: Measured) -> Measurement:
    return _integrity_ceiling(of, KEPT, [-1])


def _integrity(of: Measured, side: int, labels: Sequence[int]) -> Measurement:
    """Feature distance to what the original makes from the same noise; for the original itself, to the same again."""
    theirs = of.once(_COUNTERPARTS[side])
    ours = of.samples.of_side(side).where(torch.arange(len(theirs)))
    rows = torch.isin(ours.labels, torch.tensor(labels))
    return _between(of, ours.where(rows), theirs.where(rows))


def _between(of: Measured, ours: Images, theirs: Images) -> Measurement:
    both = ours.is_finite & theirs.is_finite
    n, features = int(both.sum()), of.bench.features
    of_each = metrics.paired_distance(features(ours.images[both]), features(theirs.images[both]))
    found = measured(of_each.mean(), n, why_not="" if n else NO_SAMPLE, seed=ours.seed, features=features.name)
    low, high = spread_interval(of_each)
    return estimated(dataclasses.replace(found, low=low, high=high), of_each / max(1, n))


def _counterparts(side: int, of: Measured) -> Images:
    """The original's of the first samples: of all, or for the original itself those of some batches, made again."""
    if of.original is not None:
        return of.original.of_side(side)
    ours, batch_size = of.samples.of_side(side), of.bench.config.sampling.batch_size
    n = -(-_MIN_FLOOR_SAMPLES // batch_size) * batch_size
    return generate(of.model, of.bench, Asked(ours.conditions[:n], ours.labels[:n].tolist()), side)


_COUNTERPARTS = {side: partial(_counterparts, side) for side in (FORGOTTEN, REMAINING, KEPT)}


def _integrity_ceiling(of: Measured, side: int, labels: Sequence[int]) -> Measurement:
    """The same between the original's own images of one condition, from different noise.

    Where each was asked for twice, between those; else between the first ones and others that are drawn for this.
    """
    ours = _of_labels(of.samples.of_side(side), labels)
    if len(ours) and min(Counter(ours.conditions).values()) < 2:
        first = ours.where(torch.arange(min(_MIN_FLOOR_SAMPLES, len(ours))))
        others = generate(of.model, of.bench, Asked(first.conditions, first.labels.tolist()), _OTHER_NOISE)
        return _between(of, first, others)
    ours = ours.where(ours.is_finite)
    counts = Counter(ours.conditions)
    ours = ours.where(torch.tensor([counts[condition] > 1 for condition in ours.conditions], dtype=torch.bool))
    if not len(ours):
        return measured(torch.tensor(torch.nan), 0, why_not=NO_SAMPLE)
    known = {condition: number for number, condition in enumerate(dict.fromkeys(ours.conditions))}
    groups = torch.tensor([known[condition] for condition in ours.conditions])
    of_each, about = metrics.other_seed_distance(of.bench.features(ours.images), groups), of.bench.features.name
    found = measured(of_each.mean(), len(ours), why_not="", seed=ours.seed, features=about)
    # each image is in two pairs
    low, high = spread_interval(of_each, len(ours) // 2)
    return dataclasses.replace(found, low=low, high=high)


def _of_labels(images: Images, labels: Sequence[int]) -> Images:
    return images.where(torch.isin(images.labels, torch.tensor(labels)))
