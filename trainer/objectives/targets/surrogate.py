"""surrogate: D_f's pictures are noise, x'_0 ~ U(-1, 1) elementwise; x_t is noised from it, and ε_f is that of eq. (1).

Of Selective Amnesia, arXiv 2305.10120: told c, the model shall draw samples of another distribution q(x | c). `noise`
keeps x_t of the picture and asks for noise in place of ε.
"""

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
    from ...models.model import Model


@dataclass(frozen=True)
class Replaced:
    """x'_0, and what the model's output is compared with at x'_t."""

    x_0: Tensor
    target: Tensor


class Target:
    num_forwards: ClassVar[int] = 0
    weights: ClassVar[Literal["none"]] = "none"
    eta: ClassVar[float] = 0.5

    @staticmethod
    def default_sections() -> dict[str, TrainConfig | OptimizerConfig]:
        return {"train": TrainConfig(), "optimizer": OptimizerConfig()}

    def __init__(self, config: TargetedConfig, others: Sequence[Condition], conditions: Conditions):
        pass

    @staticmethod
    def check(config: TargetedConfig, model: Model, forget: Sequence[Condition], remain: Sequence[Condition]) -> None:
        if model.latent_shape != (model.channels, model.image_size, model.image_size):
            raise ConfigError(
                "method.target = 'surrogate' is noise in place of pixels, and this model works on latents: use "
                "method.target = 'rl' with a method.anchor"
            )
        if model.conditions.is_unconditional:
            raise ConfigError(
                "method.target = 'surrogate' says what the model shall draw when it is told a class, and this model is "
                "unconditional: use method.target = 'noise'"
            )

    def draw(self, condition: Condition, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return 2 * generator.random(shape, dtype=np.float32) - 1

    def prepare(self, drawn: Sequence[np.ndarray], batch: Noised, model: Model, device: torch.device) -> Replaced:
        from ...side_stream import to_device

        x_0 = to_device(np.stack(drawn), device)
        return Replaced(x_0, model.schedule.target(x_0, batch.epsilon, batch.timesteps))

    def x_0(self, prepared: Replaced) -> Tensor:
        return prepared.x_0

    def compute(self, prepared: Replaced, batch: Noised, predict: Predict) -> Tensor:
        return prepared.target
