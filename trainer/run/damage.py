"""The guard over the remain loss: what a scrub must not do is destroy the rest of the model without a word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NUM_START_STEPS = 3  # more would hold what the first steps have destroyed
DECAY = 0.9  # of the smoothed loss: its memory is about ten steps


class LossGuard:
    """Compares the smoothed L_r with its start, the mean of the first steps, from which the smoothing begins.

    A function of the log alone, so that a run that is killed and continued ends at the step it would have ended at,
    and every rank decides alike.
    """

    def __init__(self, max_ratio: float | None, earlier: Iterable[dict[str, Any]] = ()):
        """`max_ratio`: None never ends a run. `earlier`: the log's lines before the first step that `exceeds` sees."""
        self._max_ratio = max_ratio
        self._first: list[float] = []
        self._smoothed = 0.0
        for line in earlier:
            self._see(line)

    @property
    def start(self) -> float:
        return sum(self._first) / NUM_START_STEPS

    def exceeds(self, line: dict[str, Any]) -> str | None:
        """Takes a step's metrics in; what is wrong where L_r has left its start too far behind."""
        if not self._see(line) or self._max_ratio is None or self._smoothed <= self._max_ratio * self.start:
            return None
        return (
            f"the remain loss L_r, smoothed, is {self._smoothed:.3g}, more than {self._max_ratio:g} times the "
            f"{self.start:.3g} it began with: the rest of the model is being destroyed"
        )

    def _see(self, line: dict[str, Any]) -> bool:
        """Whether there is something to compare after this step; one that was skipped does not count."""
        if line["skipped"]:
            return False
        loss_r = line["loss_r"]
        if len(self._first) < NUM_START_STEPS:
            self._first.append(loss_r)
            self._smoothed = self.start
            return False
        self._smoothed = DECAY * self._smoothed + (1 - DECAY) * loss_r
        return self.start > 0
