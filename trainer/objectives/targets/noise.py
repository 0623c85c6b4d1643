"""noise: ε_f ~ U(0, 1), elementwise, as the paper has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ...config import OptimizerConfig, TargetedConfig, TrainConfig
from . import Noised, Predict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...models.conditions import Condition, Conditions
    from ...models.model import Model


class Target:
    num_forwards: ClassVar[int] = 0
    weights: ClassVar[Literal["none"]] = "none"
    eta: ClassVar[float] = 1e-4

    @staticmethod
    def default_sections() -> dict[str, TrainConfig | OptimizerConfig]:
        """It asks for little a step, so for more of them."""
        return {"train": TrainConfig(max_train_steps=150), "optimizer": OptimizerConfig(learning_rate=3e-4)}

    def __init__(self, config: TargetedConfig, others: Sequence[Condition], conditions: Conditions):
        pass

    @staticmethod
    def check(config: TargetedConfig, model: Model, forget: Sequence[Condition], remain: Sequence[Condition]) -> None:
        pass

    def draw(self, condition: Condition, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return generator.random(shape, dtype=np.float32)

    def prepare(self, drawn: Sequence[np.ndarray], batch: Noised, model: Model, device: torch.device) -> Tensor:
        from ...side_stream import to_device

        return to_device(np.stack(drawn), device)

    def compute(self, prepared: Tensor, batch: Noised, predict: Predict) -> Tensor:
        return prepared
