"""How far a figure may be off for want of samples: intervals, and what is left of a margin at their worse end.

Each is at `confidence`, two-sided. Where m classes are looked at for the worst of them, every one gets the confidence
1 - (1 - confidence)/m (Bonferroni): the worst of many looks worse than it is, by chance alone.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from torch import Tensor

CONFIDENCE = 0.95
# with fewer on a side the normal interval misses too often: that of two members' AUC a third of the time
MIN_SAMPLES = 10


def for_each_of(num_classes: int, confidence: float = CONFIDENCE) -> float:
    """The confidence each of so many intervals needs for all of them to hold together with `confidence`."""
    return 1 - (1 - confidence) / num_classes


def score_interval(mean: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's (1927) interval of a mean of n numbers in [0, 1].

    Made for shares (every number 0 or 1). Numbers in between vary less around the same mean, so for a mean of
    probabilities it is wider than it need be, and never empty where all of them are equal.
    """
    z_squared = _z(confidence) ** 2
    mean = min(1.0, max(0.0, mean))  # a sum's rounding may have left it a little outside
    centre = (mean + z_squared / (2 * n)) / (1 + z_squared / n)
    half = math.sqrt(z_squared * (mean * (1 - mean) / n + z_squared / (4 * n * n))) / (1 + z_squared / n)
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def samples_to_show(limit: float, confidence: float = CONFIDENCE) -> int:
    """The fewest of which a mean of 0 is shown to be at most `limit`, by `score_interval`."""
    return math.ceil(_z(confidence) ** 2 * (1 / limit - 1))


def normal_interval(value: float, variance: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """value ± z √variance."""
    half = _z(confidence) * math.sqrt(variance)
    return value - half, value + half


def bounded_interval(values_N: Tensor, top: float) -> tuple[float, float]:
    """Of the mean of numbers in [0, top], by their spread; Wilson's where all are equal, anything where few are."""
    n = len(values_N)
    if n < MIN_SAMPLES:  # their spread is hardly known
        return 0.0, top
    mean, variance = values_N.mean().item(), values_N.var().item() / n
    if variance == 0:
        low, high = score_interval(mean / top, n)
        return low * top, high * top
    low, high = normal_interval(mean, variance)
    return max(0.0, low), min(top, high)


def spread_interval(values_N: Tensor, n: int | None = None) -> tuple[float | None, float | None]:
    """Of the mean of numbers that are at least 0, by their spread; none where they are few.

    n: as how many independent ones they count, where that is fewer.
    """
    if len(values_N) < MIN_SAMPLES:
        return None, None
    values = values_N.double()
    low, high = normal_interval(values.mean().item(), values.var().item() / (n or len(values)))
    return max(0.0, low), high


def count_interval(counts_N: Tensor) -> tuple[float, float]:
    """Of what N samples count together: by the spread between samples, and nowhere narrower than Poisson's.

    That is Garwood's (1936), by Byar's approximation: rare boxes hardly tell their spread, and of none at all there may
    be up to -ln(.025), 3.7, in as many samples.
    """
    counts, n = counts_N.double(), len(counts_N)
    total = counts.sum().item()
    if total == 0:
        return 0.0, -math.log((1 - CONFIDENCE) / 2)
    spread = counts.var().item() if n > 1 else 0.0
    low, high = normal_interval(total, n * spread)
    z, more = _z(CONFIDENCE), total + 1
    poisson_low = total * (1 - 1 / (9 * total) - z / (3 * math.sqrt(total))) ** 3
    poisson_high = more * (1 - 1 / (9 * more) + z / (3 * math.sqrt(more))) ** 3
    return max(0.0, min(low, poisson_low)), max(high, poisson_high)


def is_within_noise(
    value: float,
    interval: tuple[float, float],
    other: float,
    other_interval: tuple[float, float],
    correlation: float = 0.0,
) -> bool:
    """Whether the interval of the difference, Newcombe's, holds 0: the two are not told apart by these samples."""
    return (
        difference_low(value, interval, other, other_interval, correlation) <= 0
        and difference_low(other, other_interval, value, interval, correlation) <= 0
    )


def difference_low(
    value: float,
    interval: tuple[float, float],
    other: float,
    other_interval: tuple[float, float],
    correlation: float = 0.0,
) -> float:
    """Lower end of the interval of value - other, from each one's own (Newcombe 1998, for pairs and for single ones).

    correlation: of the two, where they are from the same noise (`pairing.correlation`).
    """
    down, up = value - interval[0], other_interval[1] - other
    return value - other - math.sqrt(max(0.0, down**2 + up**2 - 2 * correlation * down * up))


def borne_out(correlation: float, n: int, confidence: float | None = None) -> float:
    """As much of a correlation as n samples bear out: where two models agree on all of a few, the next may tell them
    apart. At most 1 - 2 z²/n: of shares near a half the difference is then open by z²/n at least, as it is of a share
    of 0.
    """
    return min(correlation, max(0.0, 1 - 2 * _z(confidence or CONFIDENCE) ** 2 / max(1, n)))


def standard_error(interval: tuple[float, float], confidence: float = CONFIDENCE) -> float:
    """What the normal interval of this width has."""
    return (interval[1] - interval[0]) / (2 * _z(confidence))


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
