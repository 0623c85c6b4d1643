"""What a scrubbed model must hold: `p_psi <= 0.1`, `accuracy_remaining >= unscrubbed - 0.02`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from .metrics import Measurement

# metrics by which a model that forgot is told from one that did not
_OF_FORGETTING = ("p_psi", "entropy", "nearest_to_forget", "membership_auc")
# where no threshold shows forgetting
NOT_SHOWN = "no threshold on forgetting holds that the unscrubbed model does not hold too"
MODELS = ("unscrubbed", "scrubbed", "retrained")
_NUMBER = r"\d+\.?\d*(?:e-?\d+)?"
_PATTERN = re.compile(
    rf"\s*(?P<metric>[a-z_]+(?:\[[^\]]+\])?)\s*(?P<sign><=|>=)\s*"
    rf"(?:(?P<number>-?{_NUMBER})|(?P<model>unscrubbed|retrained)(?:\s*(?P<plus>[+-])\s*(?P<offset>{_NUMBER}))?)\s*"
)


@dataclass(frozen=True)
class Threshold:
    """The scrubbed model's `metric` is at most, or at least, `offset` plus another model's figure (none: 0)."""

    text: str
    metric: str
    at_most: bool
    model: str | None
    offset: float


@dataclass(frozen=True)
class Verdict:
    """A threshold held against the figures."""

    threshold: str
    limit: float | None
    """None where the model it refers to has no figure; then it fails."""
    value: float | None
    """The scrubbed model's; None where there is none; then it fails."""
    passed: bool


def parse_threshold(text: str) -> Threshold:
    """Raises ConfigError for what is no threshold."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"judge.thresholds: {text!r} is none; write 'METRIC <= NUMBER' or '>=', or compare with another model: "
            "'accuracy_remaining >= unscrubbed - 0.02', 'p_psi <= retrained + 0.05'"
        )
    offset = float(match["number"] or match["offset"] or 0)
    if match["plus"] == "-":
        offset = -offset
    return Threshold(text, match["metric"], match["sign"] == "<=", match["model"], offset)


def check_thresholds(thresholds: Sequence[Threshold], metrics: Sequence[str], with_retrained: bool) -> None:
    """Before anything is computed: raises ConfigError for a metric or a model that will not be there."""
    for threshold in thresholds:
        if threshold.metric not in metrics:
            raise ConfigError(
                f"judge.thresholds: {threshold.text!r} is on a metric that is not computed; "
                f"computed are: {', '.join(metrics)}"
            )
        if threshold.model == "retrained" and not with_retrained:
            raise ConfigError(
                f"judge.thresholds: {threshold.text!r} compares with the retrained model: "
                "set judge.with_retrained, or name one in judge.retrained"
            )


def judge(thresholds: Sequence[Threshold], models: Mapping[str, Mapping[str, Measurement]]) -> list[Verdict]:
    """Holds each threshold against the scrubbed model's figures. A figure that is missing fails it."""

    def figure(model: str, metric: str) -> float | None:
        measurement = models[model].get(metric)
        return None if measurement is None else measurement.value

    verdicts = []
    for threshold in thresholds:
        value = figure("scrubbed", threshold.metric)
        base = 0.0 if threshold.model is None else figure(threshold.model, threshold.metric)
        limit = None if base is None else base + threshold.offset
        passed = value is not None and limit is not None and (value <= limit if threshold.at_most else value >= limit)
        verdicts.append(Verdict(threshold.text, limit, value, passed))
    return verdicts


def tells_nothing(text: str, models: Mapping[str, Mapping[str, Measurement]]) -> bool:
    """Whether a threshold on forgetting holds for the unscrubbed model as well, which has forgotten nothing."""
    return _is_of_forgetting(text) and _holds_unscrubbed(text, models)


def shows_forgetting(verdict: Verdict, models: Mapping[str, Mapping[str, Measurement]]) -> bool:
    """Whether it is a threshold on forgetting that the scrubbed model holds and the unscrubbed one does not."""
    text = verdict.threshold
    return verdict.passed and _is_of_forgetting(text) and not _holds_unscrubbed(text, models)


def _is_of_forgetting(text: str) -> bool:
    return parse_threshold(text).metric.partition("[")[0] in _OF_FORGETTING


def _holds_unscrubbed(text: str, models: Mapping[str, Mapping[str, Measurement]]) -> bool:
    (verdict,) = judge([parse_threshold(text)], {**models, "scrubbed": models["unscrubbed"]})
    return verdict.passed
