"""What a scrubbed model must hold: `p_psi_worst_class <= 0.1`, `accuracy_remaining >= unscrubbed - 0.02`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..config.thresholds import Threshold, parse_threshold
from ..errors import ConfigError
from .intervals import difference_low, for_each_of, score_interval
from .metric_table import row_of
from .metrics import Measurement
from .pairing import correlation_shown

Figures = Mapping[str, Mapping[str, Measurement]]  # of each model, by metric
Overall = Literal["shown", "not shown", "failed"]

# how far a retrained model's own figure is out of reach where it is the limit: .05 of a share, 5 % of another figure
BESIDE_RETRAINED = 0.05


@dataclass(frozen=True)
class Verdict:
    """A threshold held against the figures; of a worst class, against that of each, and told of the tightest."""

    threshold: str
    limit: float | None
    """None where the model it refers to has no figure."""
    value: float | None
    """The scrubbed model's; None where there is none."""
    passed: bool
    """Whether the figure is there and within its limit."""
    shown: bool
    """Whether it still is at the worse end of the margin's 95 % interval: the samples are enough to say so."""
    margin: float | None = None
    """How far the figure is within its limit; negative outside."""
    margin_low: float | None = None
    """The worse end of the margin's interval; None where a figure has none. Then nothing is shown, unless there is
    nothing to doubt: of what is counted, and of a model beside itself."""
    of_class: str | None = None
    """The class it is decided by."""
    rejects_retrained: bool = False
    """Whether the limit as given is shown to reject the retrained model itself. On forgetting `limit` is that one's
    figure then, with `BESIDE_RETRAINED` to spare."""


def default_thresholds(metrics: Sequence[str], forgets_classes: bool, with_retrained: bool) -> list[str]:
    """What must hold where nothing else is asked for: forgotten, the rest kept, and as good as it was.

    metrics: those that are computed. Raises ConfigError where nothing would say whether single samples are forgotten.
    """
    rest = [
        "accuracy_worst_class >= unscrubbed - 0.1",
        "accuracy_remaining >= unscrubbed - 0.02",
        # what earlier requests had it forget does not come back
        *(f"{name} <= unscrubbed + 0.05" for name in metrics if name == "p_psi_earlier_worst_class"),
        *(f"{name} >= unscrubbed - 0.02" for name in metrics if name.startswith("factor_accuracy")),
        *(f"{name} <= 1.5 * unscrubbed" for name in metrics if name.startswith("frechet_distance")),
        "non_finite_samples <= 0",
    ]
    if forgets_classes:
        limits = ["p_psi_worst_class <= retrained + 0.05" if with_retrained else "p_psi_worst_class <= 0.1"]
        if "p_psi_worst_phrasing" in metrics:  # of fewer samples, so that the limit is wider
            limits.append("p_psi_worst_phrasing <= " + ("retrained + 0.15" if with_retrained else "0.2"))
        return [*limits, *rest]
    if not with_retrained or "membership_gap" not in metrics:
        raise ConfigError(
            "judge.thresholds: nothing would say whether single samples are forgotten; name unseen samples in "
            "judge.held_out and a retrained model in judge.retrained (or set judge.with_retrained), or give thresholds"
        )
    return ["membership_gap <= retrained + 0.05", *rest]


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


def hold(thresholds: Sequence[Threshold], models: Figures, judged: str = "scrubbed") -> list[Verdict]:
    """Holds each threshold against a model's figures. A figure that is missing passes none."""
    return [_judge(threshold, models, judged) for threshold in thresholds]


def _judge(threshold: Threshold, models: Figures, judged: str) -> Verdict:
    parent = row_of(threshold.metric).worst_of
    if parent is None:
        return _hold_fairly(threshold, {name: found.get(threshold.metric) for name, found in models.items()}, judged)
    whole = models[judged].get(parent)
    classes = {} if whole is None else whole.by_class
    confidence = for_each_of(max(1, len(classes)))
    verdicts = [
        _hold_fairly(threshold, _of_class(models, parent, name), judged, confidence, of_class=name) for name in classes
    ]
    return min(verdicts, key=_tightness, default=_hold(threshold, None, None))


def _of_class(models: Figures, metric: str, name: str) -> dict[str, Measurement | None]:
    """Each model's figure of one class; None where it has none."""
    found = {model: figures.get(metric) for model, figures in models.items()}
    return {model: None if figure is None else figure.by_class.get(name) for model, figure in found.items()}


def _tightness(verdict: Verdict) -> tuple[bool, float, float]:
    """Least for what decides: a class out of its limit, one without a figure, the one that is nearest to its limit."""
    missing = float("-inf")
    return (
        verdict.passed or verdict.margin is None,
        missing if verdict.margin_low is None else verdict.margin_low,
        missing if verdict.margin is None else verdict.margin,
    )


def _hold_fairly(
    threshold: Threshold,
    figures: Mapping[str, Measurement | None],
    judged: str,
    confidence: float | None = None,
    of_class: str | None = None,
) -> Verdict:
    """One figure against its limit; beside the retrained model's where the limit is shown to reject that model itself.

    So only of forgetting: a retrained model never saw what is forgotten, but it may well be worse at the rest.
    """
    theirs = None if threshold.model is None else figures.get(threshold.model)
    verdict = _hold(threshold, figures[judged], theirs, confidence, of_class)
    retrained = figures.get("retrained")
    if retrained is None or threshold.model == "retrained":
        return verdict
    # that it is beyond the limit has to be shown, as that a model is within: else few samples would widen the limit
    beyond = _hold(dataclasses.replace(threshold, at_most=not threshold.at_most), retrained, theirs, confidence)
    if not beyond.shown or beyond.margin == 0:
        return verdict
    if is_on_forgetting(threshold):
        verdict = _hold(_beside_retrained(threshold), figures[judged], retrained, confidence, of_class)
    return dataclasses.replace(verdict, rejects_retrained=True)


def _beside_retrained(threshold: Threshold) -> Threshold:
    """The same of the retrained model's figure, with something to spare."""
    spare = BESIDE_RETRAINED if threshold.at_most else -BESIDE_RETRAINED
    is_share = row_of(threshold.metric).is_share
    factor, offset = (1.0, spare) if is_share else (1 + spare, 0.0)
    return dataclasses.replace(threshold, model="retrained", factor=factor, offset=offset)


def _hold(
    threshold: Threshold,
    ours: Measurement | None,
    theirs: Measurement | None,
    confidence: float | None = None,
    of_class: str | None = None,
) -> Verdict:
    """One figure against its limit. confidence: of one class among several, whose figures are means of [0, 1]."""
    value = None if ours is None else ours.value
    base = 0.0 if threshold.model is None else None if theirs is None else theirs.value
    limit = None if base is None else threshold.factor * base + threshold.offset
    if ours is None or value is None or base is None or limit is None:
        return Verdict(threshold.text, limit, value, passed=False, shown=False, of_class=of_class)
    margin = limit - value if threshold.at_most else value - limit
    passed = margin >= 0
    interval = _interval(ours, confidence)
    base_interval = (base, base) if theirs is None else _interval(theirs, confidence)
    if ours is theirs or interval is None or base_interval is None:
        shown = passed and (ours is theirs or row_of(threshold.metric).is_exact)
        return Verdict(threshold.text, limit, value, passed, shown, margin=margin, of_class=of_class)
    correlation = 0.0
    if threshold.model is not None and theirs is not None:
        correlation = correlation_shown(ours, theirs, threshold.model, confidence)
    base_low, base_high = base_interval
    limits = threshold.factor * base_low + threshold.offset, threshold.factor * base_high + threshold.offset
    worse = (
        difference_low(limit, limits, value, interval, correlation)
        if threshold.at_most
        else difference_low(value, interval, limit, limits, correlation)
    )
    return Verdict(threshold.text, limit, value, passed, passed and worse >= 0, margin, worse, of_class)


def _interval(measurement: Measurement, confidence: float | None) -> tuple[float, float] | None:
    if measurement.value is None or measurement.low is None or measurement.high is None:
        return None
    if confidence is not None:
        return score_interval(measurement.value, measurement.n, confidence)
    return measurement.low, measurement.high


def overall(verdicts: Sequence[Verdict], models: Figures) -> Overall:
    """failed: a figure is out of its limit. shown: all are shown to be within, and one of them shows forgetting."""
    if any(verdict.margin is not None and not verdict.passed for verdict in verdicts):
        return "failed"
    is_shown = all(verdict.shown for verdict in verdicts) and any(shows_forgetting(v, models) for v in verdicts)
    return "shown" if is_shown else "not shown"


def why_not_shown(verdicts: Sequence[Verdict]) -> str:
    """The reason for the verdict `not shown`: figures that are missing, else too few samples, else what they tell."""

    def told(some: Sequence[Verdict]) -> str:
        return "; ".join(f"{verdict.threshold} ({said(verdict)})" for verdict in some)

    missing = [verdict for verdict in verdicts if verdict.margin is None]
    unsure = [verdict for verdict in verdicts if not verdict.shown]
    if missing:
        return told(missing)
    if unsure:
        return f"too few samples to say that it holds: {told(unsure)}"
    return "no threshold on forgetting holds that the unscrubbed model does not hold too"


def is_on_forgetting(threshold: Threshold) -> bool:
    """Whether it asks for forgetting: on a metric that tells it, and not for more of what should be less."""
    row = row_of(threshold.metric)
    return row.is_of_forgetting and row.better != ("higher" if threshold.at_most else "lower")


def tells_nothing(text: str, models: Figures) -> bool:
    """Whether a threshold on forgetting holds for the unscrubbed model as well, which has forgotten nothing."""
    threshold = parse_threshold(text)
    return is_on_forgetting(threshold) and _judge(threshold, models, "unscrubbed").passed


def shows_forgetting(verdict: Verdict, models: Figures) -> bool:
    """Whether it is a threshold on forgetting that the scrubbed model is shown to hold and the unscrubbed one fails."""
    on_forgetting = is_on_forgetting(parse_threshold(verdict.threshold))
    return verdict.shown and on_forgetting and not tells_nothing(verdict.threshold, models)


def mark_of(verdict: Verdict) -> tuple[str, str]:
    """(the word, the colour) of a threshold: PASS, FAIL, NO FIGURE, or TOO FEW samples to say that it holds."""
    if verdict.shown:
        return "PASS", "green"
    if verdict.margin is None:
        return "NO FIGURE", "yellow"
    return ("TOO FEW", "yellow") if verdict.passed else ("FAIL", "red")


def said(verdict: Verdict) -> str:
    """What a threshold came to, in words: the figure, its limit where another model gives it, the class, the doubt."""
    if verdict.value is None or verdict.limit is None:
        return "no figure" if verdict.value is None else "no figure to compare with"
    threshold = parse_threshold(verdict.threshold)
    limit = "" if threshold.model is None else f", the limit {_number(verdict.limit)}"
    if verdict.rejects_retrained and is_on_forgetting(threshold):
        limit = f", the limit {_number(verdict.limit)}: by the retrained model, which does not hold it as it was given"
    elif verdict.rejects_retrained:
        limit += ", which the retrained model does not hold either"
    of_class = "" if verdict.of_class is None else f" for class {verdict.of_class}"
    if of_class and limit:
        of_class += ", the one that decides"
    doubt = ""
    if verdict.passed and not verdict.shown:
        beyond = "anything" if verdict.margin_low is None else f"{_number(-verdict.margin_low)} beyond"
        doubt = f", but with this many samples it may be {beyond}"
    return f"it is {_number(verdict.value)}{of_class}{limit}{doubt}"


def _number(value: float) -> str:
    return f"{value:.3g}"
