"""What models are asked for: conditions of each class, how they are grouped, and what else they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...shards.dataset import Dataset
from ..config import JudgeConfig
from ..errors import ConfigError
from ..models.conditions import Condition
from ..models.fitting import fit
from ..models.model import Model
from .classifier import load_for
from .prompt_file import AskedPrompt, read_prompts


@dataclass(frozen=True)
class Asking:
    """By `judge.prompts` where there are some, else by the data."""

    conditions: dict[int, list[Condition]]
    """Of each class."""
    phrasings: dict[Condition, str]
    """The group of each, by `judge.prompts`."""
    factors: dict[Condition, str]
    """What else each means, by its name in `judge.factor`."""

    @classmethod
    def of(cls, options: JudgeConfig, model: Model, data: Dataset, labels: Sequence[int]) -> Asking:
        """Raises ConfigError for prompts that the model cannot be told, a class without one, and unknown factors."""
        if options.factor is None and options.factor_classifier is not None:
            raise ConfigError("judge.factor_classifier judges what judge.factor holds: give that, too")
        factor = None if options.factor is None else fit_factor(options, model)
        if factor is not None and options.factor_classifier is not None:
            load_for(options.factor_classifier, factor, model, "judge.factor_classifier")
        if options.prompts is None:
            conditions = {label: model.conditions.of_class(label, data) for label in labels}
            factors = {} if factor is None else _factors_by_caption(options, model, factor)
            asked = {condition for of_class in conditions.values() for condition in of_class}
            missing = next((one for one in asked if factor is not None and one not in factors), None)
            if missing is not None:
                raise ConfigError(
                    f"judge.factor = '{options.factor}' has no sample told {missing!r}: name prompts with a column "
                    "factor in judge.prompts"
                )
            return cls(conditions, {}, factors)
        if model.num_classes:
            raise ConfigError(
                f"judge.prompts = '{options.prompts}': the model is told classes, not prompts: leave it out"
            )
        rows = read_prompts(options.prompts)
        for row in rows:
            model.conditions.parse(row.prompt, f"judge.prompts = '{options.prompts}'")
        conditions = {label: _prompts_of(rows, data.classes[label], options) for label in labels}
        if factor is not None:
            _check_factors(rows, factor, options)
        return cls(conditions, {row.prompt: row.phrasing for row in rows}, {row.prompt: row.factor for row in rows})

    def phrasings_of(self, labels: Sequence[int]) -> dict[Condition, str]:
        """Of the conditions of these classes."""
        wanted = {condition for label in labels for condition in self.conditions[label]}
        return {condition: group for condition, group in self.phrasings.items() if condition in wanted}


def fit_factor(options: JudgeConfig, model: Model) -> Dataset:
    """`judge.factor`, its labels; raises ConfigError or DataError for data that the model does not fit."""
    data = fit(Dataset.open(str(options.factor)), model).data
    if len(data.classes) < 2 or (data.labels < 0).any():
        raise ConfigError(f"judge.factor = '{options.factor}': every sample needs a label of two classes or more")
    return data


def _prompts_of(rows: Sequence[AskedPrompt], name: str, options: JudgeConfig) -> list[Condition]:
    found: list[Condition] = [row.prompt for row in rows if row.of_class == name]
    if not found:
        raise ConfigError(f"judge.prompts = '{options.prompts}' has no prompt of class {name!r}")
    return found


def _factors_by_caption(options: JudgeConfig, model: Model, data: Dataset) -> dict[Condition, str]:
    factors: dict[Condition, str] = {}
    for condition, label in zip(model.conditions.of_dataset(data), data.labels.tolist(), strict=True):
        name = data.classes[label]
        if factors.setdefault(condition, name) != name:
            raise ConfigError(
                f"judge.factor = '{options.factor}': {condition!r} is told of {factors[condition]!r} and of {name!r}: "
                "the prompt does not say which is asked for"
            )
    return factors


def _check_factors(rows: Sequence[AskedPrompt], data: Dataset, options: JudgeConfig) -> None:
    for row in rows:
        if row.factor not in data.classes:
            raise ConfigError(
                f"judge.prompts = '{options.prompts}': the factor of {row.prompt!r} is {row.factor!r}, which is no "
                f"class of judge.factor = '{options.factor}'"
            )
