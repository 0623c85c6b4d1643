"""What a sample is told: a class, a prompt, nothing. Plain values; a model turns them into what its module takes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Protocol

import numpy as np

from ...shards.dataset import Dataset
from ...shards.streaming.stream import SampleBatch
from ..errors import ConfigError

# a class's index, a prompt, whatever else a family tells its model; None where it is told nothing
Condition = Hashable


def as_told(prompt: str) -> str:
    """One for all prompts that a text encoder takes for the same: neither case nor spaces count."""
    return " ".join(prompt.split()).casefold()


def told_alike(condition: Condition) -> Condition:
    """One for all conditions that a model takes for the same."""
    return as_told(condition) if isinstance(condition, str) else condition


def prompts_among(conditions: Iterable[Condition]) -> set[str]:
    """Those that are prompts, as they are told."""
    return {as_told(one) for one in conditions if isinstance(one, str)}


class Conditions(Protocol):
    """What a model can be told, and where the data say it."""

    @property
    def kind(self) -> str:
        """What the model is told, in a word."""
        ...

    @property
    def is_unconditional(self) -> bool:
        """Whether the model is told nothing at all."""
        ...

    @property
    def has_null(self) -> bool:
        """Whether some condition stands for none of the others: label drop and guidance need one."""
        ...

    @property
    def null(self) -> Condition:
        """That condition; without meaning where there is none."""
        ...

    @property
    def num_classes(self) -> int:
        """Classes that the model itself counts, the null class among them; 0: it is told no class by its number."""
        ...

    def of_samples(self, samples: SampleBatch) -> list[Condition]:
        """c of each sample, as the data say it."""
        ...

    def of_dataset(self, data: Dataset, rows: np.ndarray | None = None) -> list[Condition]:
        """c of each of its samples, or of those of `rows` (bool [N]), in their order."""
        ...

    @property
    def asks_for_classes(self) -> bool:
        """Whether `of_class` has an answer."""
        ...

    def of_class(self, label: int, data: Dataset) -> list[Condition]:
        """The conditions that ask for a class of the data, by turns."""
        ...

    def parse(self, given: int | str, option: str) -> Condition:
        """A condition as a person gives it; raises ConfigError, naming the option, for what is none."""
        ...

    def known(self) -> list[Condition]:
        """All that `sample` draws where nobody says what."""
        ...

    def check(self, data: Dataset) -> None:
        """Raises ConfigError where the data do not say what the model must be told."""
        ...


def distinct(conditions: Iterable[Condition]) -> list[Condition]:
    """Each once, in ascending order."""
    found: set[Any] = set(conditions)
    return sorted(found)


class ClassConditions:
    """One of the model's classes, by its index."""

    kind = "a class"
    is_unconditional = False
    asks_for_classes = True

    def __init__(self, num_classes: int, null: int | None):
        self.num_classes = num_classes
        self.null = null
        self.has_null = null is not None

    def of_samples(self, samples: SampleBatch) -> list[Condition]:
        return samples.labels.tolist()

    def of_dataset(self, data: Dataset, rows: np.ndarray | None = None) -> list[Condition]:
        return (data.labels if rows is None else data.labels[rows]).tolist()

    def of_class(self, label: int, data: Dataset) -> list[Condition]:
        return [label]

    def parse(self, given: int | str, option: str) -> Condition:
        if not isinstance(given, int) or not 0 <= given < self.num_classes:
            raise ConfigError(f"{option} = {given} is no class of the model (0 to {self.num_classes - 1})")
        return given

    def known(self) -> list[Condition]:
        return [label for label in range(self.num_classes) if label != self.null]

    def check(self, data: Dataset) -> None:
        without = (data.labels < 0).nonzero()[0]
        if len(without):
            raise ConfigError(
                f"{data.path}: {len(without):,} samples have no label, {data.key(int(without[0]))} for one, and the "
                "model is class-conditional: build the dataset with labels"
            )


class NoConditions:
    """Nothing: the model is unconditional."""

    kind = "nothing"
    is_unconditional = True
    asks_for_classes = False
    has_null = False
    null: Condition = None
    num_classes = 0

    def of_samples(self, samples: SampleBatch) -> list[Condition]:
        return [None] * len(samples.labels)

    def of_dataset(self, data: Dataset, rows: np.ndarray | None = None) -> list[Condition]:
        return [None] * (len(data) if rows is None else int(np.count_nonzero(rows)))

    def of_class(self, label: int, data: Dataset) -> list[Condition]:
        raise NotImplementedError

    def parse(self, given: int | str, option: str) -> Condition:
        if given != 0:
            raise ConfigError(f"{option} = {given}: the model is unconditional, leave it out")
        return None

    def known(self) -> list[Condition]:
        return [None]

    def check(self, data: Dataset) -> None:
        pass
