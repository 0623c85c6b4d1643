"""Counts the vectors that a step holds."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.engine.vector import ShardedVector


class MostHeld:
    """How many vectors as long as θ each step had at once, beside those that were there before it."""

    def __init__(self) -> None:
        self.by_step: list[int] = []
        self._alive: weakref.WeakSet[ShardedVector] = weakref.WeakSet()
        self._before = self._most = 0

    def watch(self, step: int, model: ShardedModel) -> None:
        self.by_step += [self._most] if step else []
        self._before, self._most = len(self._alive), 0

    def made(self, vector: ShardedVector) -> None:
        self._alive.add(vector)
        self._most = max(self._most, len(self._alive) - self._before)


def count_vectors(monkeypatch: pytest.MonkeyPatch) -> MostHeld:
    most, make = MostHeld(), ShardedVector.__init__

    def noted(vector: ShardedVector, *args: Any) -> None:
        make(vector, *args)
        most.made(vector)

    monkeypatch.setattr(ShardedVector, "__init__", noted)
    return most
