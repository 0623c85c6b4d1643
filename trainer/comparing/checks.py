"""A comparison held against its model, sets and judge, before anything is written."""

from __future__ import annotations

from ...shards.dataset import Dataset
from ..config import CompareConfig
from ..config.toml import check_ranges
from ..errors import ConfigError
from ..evidence.earlier import Earlier
from ..evidence.options import check_asked, check_options, gone_classes
from ..evidence.retrained import check_retrainable, named_retrained
from ..models.class_names import labels_of
from ..models.fitting import fit
from ..scrubbing import check as check_scrub
from .budget import known_paces
from .cases import Case, cases_of
from .sides import Sides


def check(config: CompareConfig) -> list[Case]:
    """The cases. Raises ConfigError or DataError, naming the method, where a run or its evaluation would be refused;
    devices aside. Writes nothing.
    """
    check_ranges(config)
    cases = cases_of(config, known_paces(config))
    sides = Sides.of(cases[0].config)
    for case in cases:
        if case.failed is not None:  # it is not run
            continue
        try:
            check_scrub(case.config, sides.unscrubbed)
        except ConfigError as error:
            raise ConfigError(f"methods.{case.name}: {error}") from None
    options = config.judge
    for name in ("device", "num_threads"):
        judged, trained = getattr(options, name), getattr(config.engine, name)
        if judged not in ("auto", None, trained):
            raise ConfigError(
                f"judge.{name} = {judged!r}, engine.{name} = {trained!r}: a comparison scrubs and measures alike; set "
                f"engine.{name}"
            )
    check_options(options, sides.unscrubbed)
    data = fit(Dataset.open(config.data), sides.unscrubbed).data
    forgotten, remaining = labels_of(sides.forget), labels_of(sides.remain)
    gone = gone_classes(forgotten, remaining, data.classes, config.forget)
    earlier = Earlier.beside(sides.unscrubbed, data, sides.forget, remaining)
    sets, num_remain = [sides.forget, sides.remain], len(sides.remain)
    check_asked(options, sides.unscrubbed, data, sets, num_remain, forgotten, remaining, bool(gone), earlier)
    if options.with_retrained:
        check_retrainable(sides.unscrubbed, sides.remain)
    named_retrained(options, sides.unscrubbed, config.model)
    return cases


def describe(config: CompareConfig) -> str:
    """What `--dry-run` prints: a line for each method."""
    cases, lines = check(config), []
    paced = config.budget.seconds is not None
    paces = known_paces(config)
    for case in [case for case in cases if case.seed == config.seeds[0]]:
        if case.failed is not None:
            lines.append(f"{case.name}: {case.failed}")
            continue
        cost = case.config.method.cost(case.config.engine.precision)
        steps = case.config.train.max_train_steps
        told = f"{steps:,} iterations" if not paced or case.name in paces else f"{config.budget.seconds:g} seconds"
        before = case.config.method.num_preparing_gradients
        lines.append(f"{case.name}: {told} of {cost}" + (f", after {before} gradients" if before else ""))
    lines.append(f"{len(cases)} runs: {len(cases) // len(config.seeds)} rows, {len(config.seeds)} seeds each")
    return "\n".join(lines)
