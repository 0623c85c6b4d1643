"""One file a method. Each reads like its paper's algorithm, in the engine's operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..config import EraseDiffConfig, FinetuneConfig, MethodConfig, MOOConfig
from ..engine.packet import Packet
from ..engine.sharded_model import ShardedModel
from ..engine.vector import ShardedVector
from ..objectives.diffusion import DiffusionBatch, DiffusionObjective


@dataclass(frozen=True)
class Update:
    """What a method wants done in one step."""

    delta: ShardedVector
    packet: Packet  # at least loss_r and dot_rr, and the sums of each parameter; the same on all ranks
    skip: Tensor  # 0-dim, 1 where a loss or gradient is not finite
    gradient_of_g: tuple[ShardedVector, ShardedVector | None] | None = None  # ∇g = first - second, where asked for


class Method(Protocol):
    """A method; `needs_forget` says whether `forget` holds micro-batches of D_f or nothing."""

    needs_forget: bool

    def step(
        self,
        model: ShardedModel,
        forget: list[DiffusionBatch],
        remain: list[DiffusionBatch],
        step: int,
        *,
        keep_gradient_of_g: bool,
    ) -> Update:
        """δ of one outer step at the model's θ_t. All ranks call it; θ is not changed."""
        ...


def make(config: MethodConfig, objective: DiffusionObjective) -> Method:
    """The method a config names."""
    if isinstance(config, EraseDiffConfig):
        from .erasediff import EraseDiff

        return EraseDiff(config, objective)
    if isinstance(config, MOOConfig):
        from .moo import MOO

        return MOO(config, objective)
    assert isinstance(config, FinetuneConfig)
    from .finetune import Finetune

    return Finetune(objective)
