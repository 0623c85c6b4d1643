"""What a sample is told: a class, a prompt, nothing. Plain values; a model turns them into what its module takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ...shards.dataset import Dataset
from ...shards.streaming.stream import SampleBatch
from ..errors import ConfigError
from .class_names import labels_of

# a class's index, a prompt, or None where the model is told nothing
Condition = int | str | None


class Conditions(Protocol):
    """What a model can be told, and where the data say it."""

    @property
    def kind(self) -> str:
        """What the model is told, in a word."""
        ...

    @property
    def null(self) -> Condition:
        """The condition that stands for none of the others; None: the model has no such one."""
        ...

    @property
    def num_classes(self) -> int:
        """Classes that the model itself counts, the null class among them; 0: it is told no class by its number."""
        ...

    def of_samples(self, samples: SampleBatch) -> list[Condition]:
        """c of each sample, as the data say it."""
        ...

    def of_dataset(self, data: Dataset, rows: np.ndarray | None = None) -> list[Condition]:
        """What its samples, or those of `rows` (bool [N]), are told, each once, in a fixed order."""
        ...

    def of_class(self, label: int) -> list[Condition]:
        """The conditions that ask for a class of the data, by turns.

        Raises ConfigError where the model cannot be asked for one.
        """
        ...

    def known(self) -> list[Condition]:
        """All that `sample` draws where nobody says what."""
        ...

    def check(self, data: Dataset) -> None:
        """Raises ConfigError where the data do not say what the model must be told."""
        ...


class ClassConditions:
    """One of the model's classes, by its index."""

    kind = "a class"

    def __init__(self, num_classes: int, null: int | None):
        self.num_classes = num_classes
        self.null = null

    def of_samples(self, samples: SampleBatch) -> list[Condition]:
        return samples.labels.tolist()

    def of_dataset(self, data: Dataset, rows: np.ndarray | None = None) -> list[Condition]:
        return [*labels_of(data, rows)]

    def of_class(self, label: int) -> list[Condition]:
        return [label]

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
    null: Condition = None
    num_classes = 0

    def of_samples(self, samples: SampleBatch) -> list[Condition]:
        return [None] * len(samples.labels)

    def of_dataset(self, data: Dataset, rows: np.ndarray | None = None) -> list[Condition]:
        return [None]

    def of_class(self, label: int) -> list[Condition]:
        raise ConfigError("the evaluation asks for samples by class, and the model is unconditional")

    def known(self) -> list[Condition]:
        return [None]

    def check(self, data: Dataset) -> None:
        pass


def in_turn(conditions: Sequence[Condition], count: int) -> list[Condition]:
    """So many of them, by turns."""
    return [conditions[i % len(conditions)] for i in range(count)]
