"""The runs of a comparison: each method with each of its variations, once for each seed."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..config import BudgetConfig, CompareConfig, ScrubConfig
from ..config.toml import as_dict, decode, over_defaults, with_setting
from ..errors import ConfigError
from ..run.identity import what_counts

# how a reason begins that a budget in seconds gives
NO_STEP = "budget.seconds"


class Pace(NamedTuple):
    """What a method takes on this machine, seconds."""

    iteration: float
    preparing: float
    """Before the first."""


@dataclass(frozen=True)
class Case:
    """One run."""

    name: str
    """In the table: the method's, and what is varied of it."""
    method: str
    """The table's name of the method that it is, or varies."""
    varied: Mapping[str, Any]
    """Values by the dotted keys that `vary` or `grid` changes."""
    seed: int
    config: ScrubConfig
    failed: str | None = None
    """Why it is not run, where the budget's seconds leave it no step."""

    @property
    def slug(self) -> str:
        """What its files are called."""
        return f"{slug_of(self.name)}.{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """Those that decide the scrub's result, flat, as a row's file has them."""
        return json.loads(json.dumps(what_counts(as_dict(self.config))))


def slug_of(name: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "=.-" else " " for letter in name)
    return "-".join(kept.split())


def cases_of(config: CompareConfig, paces: Mapping[str, Pace] | None = None) -> list[Case]:
    """All of them, every method's first seed before the second of any. Raises ConfigError for settings that cannot be.

    paces: by a case's name, of a budget in seconds; those that are not there yet take one step.
    """
    if not config.methods:
        raise ConfigError('methods: name one at least, such as [methods.moo] with method.name = "moo"')
    found: list[Case] = []
    for seed in config.seeds:
        for name, method, varied, values in _variations(config):
            case = Case(name, method, varied, seed, _settings(config, name, values, seed))
            # a value that the method has anyway makes no other run
            if not any(_is_same(case, other) for other in found):
                found.append(case)
    found = [_within(config.budget, case, paces or {}) for case in found]
    by_slug: dict[str, Case] = {}
    for case in found:
        if not slug_of(case.name):
            raise ConfigError(f"methods.{case.name}: a name needs a letter or a digit")
        other = by_slug.setdefault(case.slug, case)
        if other is not case:
            raise ConfigError(
                f"methods: {other.name!r} and {case.name!r} would share the folder {case.slug}: rename one"
            )
    return found


def _is_same(case: Case, other: Case) -> bool:
    alike = dataclasses.replace(case.config, output=other.config.output) == other.config
    return alike and (case.method, case.seed) == (other.method, other.seed)


def _variations(config: CompareConfig) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """(name, its method's, what is varied, all that its method says) of each row."""
    for name, own in config.methods.items():
        vary, values_of_all = own.get("vary", config.vary), {key: own[key] for key in own if key != "vary"}
        if not isinstance(vary, dict) or not all(isinstance(values, list) for values in vary.values()):
            raise ConfigError(f"methods.{name}.vary: lists of values by dotted keys, as in [vary]")
        changes: list[dict[str, Any]] = [{}]
        if config.grid:
            changes = [
                dict(zip(config.grid, chosen, strict=True)) for chosen in itertools.product(*config.grid.values())
            ]
        changes += [{key: value} for key, values in vary.items() for value in values]
        for varied in changes:
            values = values_of_all
            for key, value in varied.items():
                values = with_setting(values, key, value)
            told = [f"{key.rpartition('.')[2]}={_said(value)}" for key, value in varied.items()]
            yield ", ".join([name, *told]), name, varied, values


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _settings(config: CompareConfig, name: str, own: Mapping[str, Any], seed: int) -> ScrubConfig:
    shared = {key: value for key, value in as_dict(config).items() if key in ("model", "train", "optimizer", "engine")}
    values: dict[str, Any] = shared
    for key, value in own.items():
        if key not in ("method", "train", "optimizer", "engine"):
            raise ConfigError(
                f"methods.{name}.{key}: a method has method, train, optimizer and engine settings; the rest is all "
                "methods' own"
            )
        values = with_setting(values, key, value)
    if isinstance(values["train"], dict) and "seed" in values["train"]:
        raise ConfigError("train.seed: name them in seeds")
    values = with_setting(values, "train.seed", seed)
    where = Path(config.output) / "runs" / f"{slug_of(name)}.{seed}"
    values |= {"forget": config.forget, "remain": config.remain, "output": str(where)}
    source = f"methods.{name}"
    try:
        values = over_defaults(ScrubConfig, ScrubConfig.decided(values, {}))
    except (ConfigError, ValueError, TypeError) as error:
        raise ConfigError(f"{source}: {error}") from None
    return decode(ScrubConfig, values, source)


def _within(budget: BudgetConfig, case: Case, paces: Mapping[str, Pace]) -> Case:
    """With as many steps as the budget allows; raises ConfigError where gradients allow none."""
    method, precision = case.config.method, case.config.engine.precision
    if budget.steps is not None:
        return _with_steps(case, budget.steps)
    if budget.gradients is not None:
        before, each = method.num_preparing_gradients, method.cost(precision).gradients
        steps = (budget.gradients - before) // each
        if steps < 1:
            raise ConfigError(
                f"methods.{case.name}: budget.gradients = {budget.gradients}: it takes {before} before its first step "
                f"and {each} for each; give more"
            )
        return _with_steps(case, steps)
    if budget.seconds is not None:
        # what is not timed yet takes one
        pace = paces.get(case.name, Pace(budget.seconds, 0.0))
        steps = int((budget.seconds - pace.preparing) / pace.iteration)
        if steps >= 1:
            return _with_steps(case, steps)
        why = (
            f"{NO_STEP} = {budget.seconds:g} leaves it no step: it takes {pace.preparing:.3g} before its first "
            f"and {pace.iteration:.3g} for each"
        )
        return dataclasses.replace(_with_steps(case, 1), failed=why)
    return case


def _with_steps(case: Case, steps: int) -> Case:
    train = dataclasses.replace(case.config.train, max_train_steps=steps)
    return dataclasses.replace(case, config=dataclasses.replace(case.config, train=train))
