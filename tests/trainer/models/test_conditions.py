"""What a person may give as a condition, by what the model is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from erasediff.shards import Dataset
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.conditions import ClassConditions, NoConditions


def test_an_unconditional_model_is_told_nothing() -> None:
    assert NoConditions().parse(0, "labels") is None and NoConditions().known() == [None]
    for given in (1, "a cat"):
        with pytest.raises(ConfigError, match=rf"labels = {given}: the model is unconditional, leave it out"):
            NoConditions().parse(given, "labels")


def test_an_unconditional_model_is_told_nothing_of_each_sample(digits: Path) -> None:
    data = Dataset.open(digits / "data")
    assert NoConditions().of_dataset(data) == [None] * len(data)
    assert NoConditions().of_dataset(data, data.labels == 3) == [None] * sum(label == 3 for label in data.labels)


def test_a_class_is_one_of_the_models() -> None:
    conditions = ClassConditions(3, null=2)
    assert [conditions.parse(label, "labels") for label in range(3)] == [0, 1, 2]
    assert conditions.known() == [0, 1], "the null class is none to ask for"
    for given in (-1, 3, "a cat"):
        with pytest.raises(ConfigError, match=rf"labels = {given} is no class of the model \(0 to 2\)"):
            conditions.parse(given, "labels")
