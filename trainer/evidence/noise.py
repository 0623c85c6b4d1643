"""Which figures of two models are not told apart by their samples."""

from __future__ import annotations

from .intervals import is_within_noise
from .metrics import Measurement
from .pairing import correlation_shown
from .record import Record


def are_alike(ours: Measurement | None, theirs: Measurement | None, other: str) -> bool:
    """Whether the interval of their difference holds 0; not where there is none. other: the second one's model."""
    if ours is None or theirs is None or ours.value is None or theirs.value is None:
        return False
    if ours.low is None or ours.high is None or theirs.low is None or theirs.high is None:
        return False
    correlation = correlation_shown(ours, theirs, other)
    return is_within_noise(ours.value, (ours.low, ours.high), theirs.value, (theirs.low, theirs.high), correlation)


def alike(record: Record, other: str) -> list[str]:
    """The metrics by which the scrubbed model is not told from another one of the record."""
    ours, theirs = (record.models[model].metrics for model in ("scrubbed", other))
    return [metric for metric in ours if are_alike(ours[metric], theirs.get(metric), other)]
