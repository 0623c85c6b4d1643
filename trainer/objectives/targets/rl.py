"""rl: ε_f = stop_gradient ε_θ(x_t | c_m), the model's own prediction under another condition than the sample's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ...config import OptimizerConfig, TargetedConfig, TrainConfig
from ...errors import ConfigError
from . import Noised, Predict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...models.conditions import Condition, Conditions
    from ...models.model import Model, Told


@dataclass(frozen=True)
class Teacher:
    """c_m of each sample, and the same for the model."""

    conditions: Sequence[Condition]
    told: Told


class Target:
    num_forwards: ClassVar[int] = 1
    weights: ClassVar[Literal["teacher"]] = "teacher"
    eta: ClassVar[float] = 0.5

    @staticmethod
    def default_sections() -> dict[str, TrainConfig | OptimizerConfig]:
        return {"train": TrainConfig(), "optimizer": OptimizerConfig()}

    def __init__(self, config: TargetedConfig, others: Sequence[Condition], conditions: Conditions):
        self._is_anchored = config.anchor is not None
        self._anchor = None if config.anchor is None else conditions.parse(config.anchor, "method.anchor")
        self._others = others
        self._place = {condition: i for i, condition in enumerate(others)}

    @staticmethod
    def check(config: TargetedConfig, model: Model, forget: Sequence[Condition], remain: Sequence[Condition]) -> None:
        if model.conditions.is_unconditional:
            raise ConfigError(
                "method.target = 'rl' compares predictions under two classes, and this model is unconditional: "
                "use method.target = 'noise'"
            )
        if config.anchor is None:
            others = set(remain)
            if any(others <= {condition} for condition in forget):
                raise ConfigError(
                    "method.target = 'rl' needs another class in the remain set to relabel to: "
                    "set method.anchor, or use method.target = 'noise'"
                )
            return
        anchor, kind = model.conditions.parse(config.anchor, "method.anchor"), model.conditions.kind
        if any(one.is_gone(anchor) for one in model.lineage.forgotten):
            raise ConfigError(f"method.anchor = {anchor} is {kind} that the model has forgotten: choose another")
        if anchor in forget:
            raise ConfigError(f"method.anchor = {anchor} is {kind} that is to be forgotten: choose another")

    def draw(self, condition: Condition, shape: tuple[int, ...], generator: np.random.Generator) -> Condition:
        """c_m: the anchor, or uniform among those of D_r without c."""
        if self._is_anchored:
            return self._anchor
        own = self._place.get(condition)
        number = int(generator.integers(len(self._others) - (own is not None)))
        return self._others[number + (own is not None and number >= own)]

    def prepare(self, drawn: Sequence[Condition], batch: Noised, model: Model, device: torch.device) -> Teacher:
        return Teacher(drawn, model.told(drawn, device))

    def compute(self, prepared: Teacher, batch: Noised, predict: Predict) -> Tensor:
        return predict(batch.x_t, batch.timesteps, prepared.told)
