"""negative_guidance: ε_f = ε*(x_t | ∅) - s (ε*(x_t | c) - ε*(x_t | ∅)), ε* the original model: away from c.

Of ESD, arXiv 2303.07345, eq. (6) there, with s its η.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from ...config import OptimizerConfig, TargetedConfig, TrainConfig
from ...errors import ConfigError
from . import Noised, Predict

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ...models.conditions import Condition, Conditions
    from ...models.model import Model, Told


class Target:
    num_forwards: ClassVar[int] = 2
    weights: ClassVar[Literal["original"]] = "original"
    eta: ClassVar[float] = 0.5

    @staticmethod
    def default_sections() -> dict[str, TrainConfig | OptimizerConfig]:
        return {"train": TrainConfig(), "optimizer": OptimizerConfig()}

    def __init__(self, config: TargetedConfig, others: Sequence[Condition], conditions: Conditions):
        self._scale = config.negative_guidance
        self._null = conditions.null

    @staticmethod
    def check(config: TargetedConfig, model: Model, forget: Sequence[Condition], remain: Sequence[Condition]) -> None:
        if not model.conditions.has_null:
            raise ConfigError(
                "method.target = 'negative_guidance' asks the model without a condition, too, and this one has no null "
                "class: set model.null_class, or use method.target = 'rl'"
            )

    def draw(self, condition: Condition, shape: tuple[int, ...], generator: np.random.Generator) -> None:
        pass

    def prepare(self, drawn: Sequence[None], batch: Noised, model: Model, device: torch.device) -> tuple[Told, Told]:
        """c of each sample, dropped for none, and the null condition."""
        return model.told(batch.conditions, device), model.told([self._null] * len(drawn), device)

    def compute(self, prepared: tuple[Told, Told], batch: Noised, predict: Predict) -> Tensor:
        of_condition, of_null = (predict(batch.x_t, batch.timesteps, told) for told in prepared)
        return of_null - self._scale * (of_condition - of_null)
