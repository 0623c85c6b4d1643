"""What models are asked for: conditions of each class, how they are grouped, and what else they mean."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ...shards.dataset import Dataset
from ..config import JudgeConfig
from ..errors import ConfigError
from ..models.conditions import Condition, as_told, prompts_among
from ..models.fitting import fit
from ..models.model import Model
from .classifier import load_for
from .prompt_file import AskedPrompt, read_kept_prompts, read_prompts


@dataclass(frozen=True)
class Asking:
    """By `judge.prompts` as far as it asks for a class, else by the data."""

    conditions: dict[int, list[Condition]]
    """Of each class."""
    phrasings: dict[Condition, str]
    """The group of each, by `judge.prompts`."""
    factors: dict[Condition, str]
    """What else each means, by its name in `judge.factor`."""
    kept: list[Condition]
    """Of no class: `judge.kept_prompts`."""
    notes: list[str]
    """Lines to say of what is asked."""

    @classmethod
    def of(
        cls, options: JudgeConfig, model: Model, data: Dataset, forgotten: Sequence[int], remaining: Sequence[int]
    ) -> Asking:
        """forgotten, remaining: the classes of D_f and of D_r.

        Raises ConfigError for prompts that the model cannot be told, a class without one, and unknown factors.
        """
        if options.factor is None and options.factor_classifier is not None:
            raise ConfigError("judge.factor_classifier judges what judge.factor holds: give that, too")
        factor = None if options.factor is None else fit_factor(options, model)
        if factor is not None and options.factor_classifier is not None:
            load_for(options.factor_classifier, factor, model, "judge.factor_classifier")
        gone = [data.classes[label] for label in forgotten if label not in remaining]
        rows = [] if options.prompts is None else read_prompts(options.prompts)
        _check_told([row.prompt for row in rows], model, f"judge.prompts = '{options.prompts}'")
        names_classes, notes = any(row.of_class for row in rows), []
        if rows and not names_classes:
            rows = _all_for(gone, rows, options)
            notes.append(f"prompts     judge.prompts has no column 'class': all {len(rows):,} ask for {gone[0]!r}")
        if names_classes:
            notes += _not_asked(rows, data, {data.classes[label] for label in (*forgotten, *remaining)}, options)
        conditions: dict[int, list[Condition]] = {}
        for label in sorted({*forgotten, *remaining}):
            name = data.classes[label]
            of_file: list[Condition] = [row.prompt for row in rows if row.of_class == name]
            if names_classes and not of_file:
                raise ConfigError(f"judge.prompts = '{options.prompts}' has no prompt of class {name!r}")
            conditions[label] = of_file or model.conditions.of_class(label, data)
            notes += _left_out(len(of_file), name, options, is_forgotten=name in gone)
        return cls(
            conditions,
            {row.prompt: row.phrasing for row in rows if row.phrasing},
            {} if factor is None else _factors(conditions, rows, options, model, factor),
            _kept(options, model, [c for label in forgotten if label not in remaining for c in conditions[label]]),
            notes,
        )

    @property
    def sha256(self) -> str | None:
        """Of all prompts, what each is asked for and what it means; None: classes are asked for, which data name."""
        told = [*itertools.chain(*self.conditions.values()), *self.kept]
        if not any(isinstance(condition, str) for condition in told) and not self.factors:
            return None
        meanings = [sorted((str(key), value) for key, value in of.items()) for of in (self.phrasings, self.factors)]
        asked = json.dumps([sorted(self.conditions.items()), self.kept, meanings])
        return hashlib.sha256(asked.encode()).hexdigest()

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


def _check_told(prompts: Sequence[str], model: Model, where: str) -> None:
    if prompts and model.num_classes:
        raise ConfigError(f"{where}: the model is told classes, not prompts: leave it out")
    for prompt in prompts:
        model.conditions.parse(prompt, where)


def _all_for(gone: Sequence[str], rows: Sequence[AskedPrompt], options: JudgeConfig) -> list[AskedPrompt]:
    if len(gone) != 1:
        found = f"{len(gone)} classes are" if gone else "no whole class is"
        raise ConfigError(
            f"judge.prompts = '{options.prompts}' has no column 'class', and {found} forgotten: name each prompt's"
        )
    return [dataclasses.replace(row, of_class=gone[0]) for row in rows]


def _not_asked(rows: Sequence[AskedPrompt], data: Dataset, asked: set[str], options: JudgeConfig) -> list[str]:
    """A line for each class of neither set. Raises ConfigError for one that the data do not have."""
    counts = Counter(row.of_class for row in rows if row.of_class not in asked)
    for name in counts:
        if name not in data.classes:
            raise ConfigError(
                f"judge.prompts = '{options.prompts}': {name!r} is no class of the data; they are "
                f"{', '.join(data.classes)}"
            )
    return [f"prompts     {n:,} ask for {name!r}, which is in neither set: not asked" for name, n in counts.items()]


def _left_out(num_prompts: int, name: str, options: JudgeConfig, *, is_forgotten: bool) -> list[str]:
    """A line where there are more prompts than samples."""
    option = "num_forget_samples_per_class" if is_forgotten else "num_remain_samples_per_class"
    num_samples = options.num_forget_samples_per_class if is_forgotten else options.num_remain_samples_per_class
    if num_prompts <= num_samples:
        return []
    return [f"prompts     {num_prompts:,} ask for {name!r}, of which judge.{option} = {num_samples:,} asks the first"]


def _kept(options: JudgeConfig, model: Model, forgotten: Sequence[Condition]) -> list[Condition]:
    """forgotten: what asks for a class that is."""
    if options.kept_prompts is None:
        return []
    prompts, where = read_kept_prompts(options.kept_prompts), f"judge.kept_prompts = '{options.kept_prompts}'"
    _check_told(prompts, model, where)
    gone = prompts_among(forgotten)
    if both := next((prompt for prompt in prompts if as_told(prompt) in gone), None):
        raise ConfigError(f"{where} holds {both!r}, which asks for what is forgotten: it is not to be kept")
    return [*prompts]


def _factors(
    conditions: dict[int, list[Condition]],
    rows: Sequence[AskedPrompt],
    options: JudgeConfig,
    model: Model,
    factor: Dataset,
) -> dict[Condition, str]:
    """By the file, and of what the data ask by the captions of `judge.factor`."""
    _check_factors(rows, factor, options)
    factors: dict[Condition, str] = {row.prompt: row.factor for row in rows}
    by_caption = {condition for asked in conditions.values() for condition in asked} - set(factors)
    if by_caption:
        factors = _factors_by_caption(options, model, factor) | factors
    missing = next((one for one in sorted(by_caption, key=str) if one not in factors), None)
    if missing is not None:
        raise ConfigError(
            f"judge.factor = '{options.factor}' has no sample told {missing!r}: name prompts with a column factor in "
            "judge.prompts"
        )
    return factors


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
