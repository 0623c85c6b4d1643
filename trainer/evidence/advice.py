"""What to try next where a scrub fails: a line for a person, from what failed and how the scrub was set."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import ScrubConfig, TargetedConfig
from ..config.thresholds import parse_threshold
from ..config.toml import NONE, as_dict
from .thresholds import Overall, Verdict, is_on_forgetting


def advice(
    config: ScrubConfig,
    thresholds: Sequence[Verdict],
    verdict: Overall,
    *,
    null_class: int | None,
    forgets_classes: bool,
    publishes: Overall | None,
) -> list[str]:
    """Lines. publishes: the verdict on a retrained model that can be published; None where there is none."""
    lines = []
    if verdict == "failed":
        failed = [v for v in thresholds if v.margin is not None and not v.passed]
        on_forgetting = [is_on_forgetting(parse_threshold(one.threshold)) for one in failed]
        if any("_earlier" in one.threshold for one in failed):
            lines.append("what an earlier request had it forget comes back: --train.max-train-steps, fewer of them")
        what = _scrub_otherwise(config, any(on_forgetting), not all(on_forgetting), null_class, forgets_classes)
        lines.append(f"{what}, in another output")
    if publishes == "shown" and verdict != "shown":
        lines.append("the retrained model holds every threshold: `erase … --publish retrained` publishes it instead")
    return lines


def _scrub_otherwise(
    config: ScrubConfig, remembers: bool, harms: bool, null_class: int | None, forgets_classes: bool
) -> str:
    steps, method = config.train.max_train_steps, config.method
    cap = as_dict(method).get("lambda_cap", 0.0)  # of a method without one nothing can be said
    # docs/results/digits.md: of what was tried it ends nearest to a retrained model
    to_null = ""
    if forgets_classes and null_class is not None and isinstance(method, TargetedConfig) and method.anchor is None:
        to_null = f"--method.anchor {null_class}" if method.target == "rl" else ""
    if remembers and harms:
        other = to_null or f"--optimizer.learning-rate {config.optimizer.learning_rate / 2:g}"
        return f"it remembers, and the rest is harmed: {other}"
    if remembers:
        return f"it remembers, and the rest is kept: {to_null or f'--train.max-train-steps {2 * steps}'}"
    less = "--method.lambda-cap 1" if cap == NONE or cap > 1 else f"--train.max-train-steps {max(1, steps // 2)}"
    return f"it has forgotten, and the rest is harmed: {less}"
