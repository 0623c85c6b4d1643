"""ESD, arXiv 2303.07345: the model's prediction for D_f goes where negative guidance leads; D_r is not trained on.

δ = ∇L_f, with the target `negative_guidance`. Its variants are layers: ESD-x is `train.layers = ["xattn"]`, ESD-u
`["noxattn"]`, and strict trains the keys and values of cross-attention alone (`["*.attn2.to_k.*", "*.attn2.to_v.*"]`).

The original denoises x_t with the model being trained and reads no pictures; here x_t is D_f noised, which `erasediff
concept generate` draws with the model itself. The rewrite of 2025 writes the same target with s one larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .. import engine
from ..config import Precision, TargetedConfig
from ..config.cost import Cost
from . import Stateless, Update

if TYPE_CHECKING:
    from ..engine import ShardedModel
    from ..objectives.objective import Losses


@dataclass(frozen=True)
class ESDConfig(TargetedConfig):
    """D_f alone, towards negative guidance (arXiv 2303.07345)."""

    name: Literal["esd"] = "esd"
    """Which method."""
    target: str = "negative_guidance"
    """ε_f of eq. (2), a file in trainer/objectives/targets."""

    def cost(self, precision: Precision) -> Cost:
        # L_r is looked at
        return Cost(1, 1) + self.cost_of_target

    @property
    def num_gradients_held(self) -> int:
        return 1

    def without_effect(self) -> dict[str, str]:
        return super().without_effect() | {"train.descent_every": "the method has no g to descend on"}

    def make(self, losses: Losses[Any]) -> ESD:
        return ESD(losses)


Config = ESDConfig


class ESD(Stateless):
    advice = "method.negative_guidance or "

    def __init__(self, losses: Losses[Any]):
        self._losses = losses

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        forget = self._losses.with_forget_targets(model, forget)
        loss_r = model.loss(self._losses.loss, remain)
        loss_f, grad_f = model.gradient(self._losses.loss, forget)
        (dot_ff, _, _), by_parameter = model.inner_products(grad_f, grad_f)
        packet = engine.Packet(by_parameter, loss_r=loss_r, loss_f=loss_f, dot_ff=dot_ff).all_reduce_()
        finite = packet.values.isfinite().all()
        return Update(grad_f, packet, skip=1 - finite.double(), norm_squared=lambda: packet["dot_ff"])
