"""What a threshold of `judge.thresholds` says: its grammar. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import ConfigError

_NUMBER = r"\d+\.?\d*(?:e-?\d+)?"
_PATTERN = re.compile(
    rf"\s*(?P<metric>[a-z_]+(?:\[[^\]]+\])?)\s*(?P<sign><=|>=)\s*(?:(?P<number>-?{_NUMBER})|"
    rf"(?:(?P<factor>{_NUMBER})\s*\*\s*)?(?P<model>unscrubbed|retrained)(?:\s*(?P<plus>[+-])\s*(?P<offset>{_NUMBER}))?)\s*"
)


@dataclass(frozen=True)
class Threshold:
    """A model's `metric` is at most, or at least, `factor` times another model's (none: 0) + `offset`."""

    text: str
    metric: str
    at_most: bool
    model: str | None
    factor: float
    offset: float


def parse_threshold(text: str) -> Threshold:
    """Raises ConfigError for what is no threshold."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"judge.thresholds: {text!r} is none; write 'METRIC <= NUMBER' or '>=', or compare with another model: "
            "'accuracy_remaining >= unscrubbed - 0.02', 'p_psi <= retrained + 0.05', "
            "'frechet_distance[digits-cnn] <= 1.5 * unscrubbed'"
        )
    offset = float(match["number"] or match["offset"] or 0)
    if match["plus"] == "-":
        offset = -offset
    return Threshold(text, match["metric"], match["sign"] == "<=", match["model"], float(match["factor"] or 1), offset)
