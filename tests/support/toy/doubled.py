"""A forget target of its own: twice what the original model predicts without a condition."""

from __future__ import annotations

from typing import Any

from erasediff.trainer.objectives.targets import noise


class Target:
    num_forwards, weights, eta = 1, "original", 0.1
    default_sections = noise.Target.default_sections
    check = noise.Target.check

    def __init__(self, config: Any, others: Any, conditions: Any):
        pass

    def draw(self, condition: Any, shape: Any, generator: Any) -> None:
        pass

    def prepare(self, drawn: Any, batch: Any, model: Any, device: Any) -> Any:
        return model.told([""] * len(drawn), device)

    def compute(self, prepared: Any, batch: Any, predict: Any) -> Any:
        return 2 * predict(batch.x_t, batch.timesteps, prepared)
