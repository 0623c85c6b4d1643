"""Plain training on D_r, eq. (1) alone: δ = ∇L_r."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .. import engine
from ..config import MethodConfig, Precision
from ..config.cost import Cost
from . import Stateless, Update

if TYPE_CHECKING:
    from ..engine import ShardedModel
    from ..objectives.objective import Losses


@dataclass(frozen=True)
class FinetuneConfig(MethodConfig):
    """Training on the remaining data alone: forgetting by neglect, and what `pretrain` runs."""

    name: Literal["finetune"] = "finetune"
    """Which method."""

    needs_forget: ClassVar[bool] = False

    def cost(self, precision: Precision) -> Cost:
        return Cost(1)

    def without_effect(self) -> dict[str, str]:
        return {
            "train.forget_label_drop": "the method reads no forget sample",
            "train.descent_every": "the method has no g to descend on",
        }

    def make(self, losses: Losses[Any]) -> Finetune:
        return Finetune(losses)


Config = FinetuneConfig


class Finetune(Stateless):
    def __init__(self, losses: Losses[Any]):
        self._losses = losses

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        loss_r, grad_r = model.gradient(self._losses.loss, remain)
        (_, _, dot_rr), by_parameter = model.inner_products(grad_r, grad_r)
        packet = engine.Packet(by_parameter, loss_r=loss_r, dot_rr=dot_rr).all_reduce_()
        finite = packet.values.isfinite().all()
        return Update(grad_r, packet, skip=1 - finite.double(), norm_squared=lambda: packet["dot_rr"])
