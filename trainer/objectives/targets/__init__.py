"""Forget targets, ε_f of eq. (2), a file each, found by name: what D_f pulls the model towards. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from ...config import OptimizerConfig, TargetedConfig, TrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ....shards.dataset import Dataset
    from ...models.conditions import Condition, Conditions
    from ...models.model import Model, Told

# (x_t, t, told) → the model's output [B, *latent_shape], at the weights of now
Predict = Callable[["Tensor", "Tensor", "Told"], "Tensor"]


@dataclass(frozen=True)
class Noised:
    """A micro-batch of D_f, noised, on the model's device: B samples of the model's latent shape."""

    x_0: Tensor
    epsilon: Tensor
    x_t: Tensor
    timesteps: Tensor  # [B]
    conditions: Sequence[Condition]  # c of each sample
    told: Told  # the same for the trained model, null where it was dropped
    keys: Sequence[str] = ()  # of each sample


@dataclass(frozen=True)
class Samples:
    """The two sets themselves, for a target that reads more of them than its batch."""

    forget: Dataset
    remain: Dataset
    folder: Path
    """The run's: what is made of them once is kept there."""


class ForgetTarget(Protocol):
    """One way to choose ε_f. What is random in it is drawn a sample at a time, ahead of the step."""

    num_forwards: ClassVar[int]
    """Forward passes over D_f's batch that it takes at θ_t."""
    weights: ClassVar[Literal["none", "teacher", "original"]]
    """Whose they are: none's, those that `teacher` chooses, or always the original model's."""
    eta: ClassVar[float]
    """EraseDiff's η where nobody sets one."""

    @staticmethod
    def default_sections() -> dict[str, TrainConfig | OptimizerConfig]:
        """EraseDiff's sections that nobody has set."""
        ...

    def __init__(self, config: TargetedConfig, others: Sequence[Condition], conditions: Conditions):
        """others: what D_r's samples are told, each once; conditions: what the model can be told."""
        ...

    @staticmethod
    def check(config: TargetedConfig, model: Model, forget: Sequence[Condition], remain: Sequence[Condition]) -> None:
        """Raises ConfigError where it cannot be computed: forget and remain are what the two sets' samples are told."""
        ...

    def draw(self, condition: Condition, shape: tuple[int, ...], generator: np.random.Generator) -> Any:
        """What is random for one sample of this latent shape, told `condition`."""
        ...

    def prepare(self, drawn: Sequence[Any], batch: Noised, model: Model, device: torch.device) -> Any:
        """The draws of a micro-batch as `compute` wants them."""
        ...

    def compute(self, prepared: Any, batch: Noised, predict: Predict) -> Tensor:
        """ε_f [B, *latent_shape]; no gradient flows into it."""
        ...


@runtime_checkable
class LooksAtSamples(Protocol):
    """What such a target has beside the rest."""

    def look_at(self, samples: Samples, model: Model) -> None:
        """Before the first draw; all ranks call it together. Raises ConfigError on all of them."""
        ...


@runtime_checkable
class Replaces(Protocol):
    """What a target has beside the rest that noises something else than D_f's samples."""

    def x_0(self, prepared: Any) -> Tensor:
        """In place of x_0 [B, *latent_shape], under the sample's own noise and timestep."""
        ...
