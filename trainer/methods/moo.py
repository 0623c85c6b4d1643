"""The naive multi-objective loss, eq. (3) of arXiv 2401.05779: L_r + λ·L_f with a constant λ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .. import engine
from ..config import Precision, TargetedConfig
from ..config.base import NotNegative
from ..config.cost import Cost
from . import Stateless, Update, _two_gradients

if TYPE_CHECKING:
    from ..engine import ShardedModel
    from ..objectives.objective import Losses


@dataclass(frozen=True)
class MOOConfig(TargetedConfig):
    """The naive multi-objective loss, eq. (3): L_r + λ·L_f with a constant λ."""

    name: Literal["moo"] = "moo"
    """Which method."""
    weight: NotNegative = 1.0
    """λ of eq. (3)."""

    def cost(self, precision: Precision) -> Cost:
        return Cost(2) + self.cost_of_target

    def make(self, losses: Losses[Any]) -> MOO:
        return MOO(self, losses)


Config = MOOConfig


class MOO(Stateless):
    advice = "method.weight or "

    def __init__(self, config: MOOConfig, losses: Losses[Any]):
        self._config = config
        self._losses = losses

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        forget = self._losses.with_forget_targets(model, forget)
        loss_r, grad_r = model.gradient(self._losses.loss, remain)
        loss_f, grad_f = model.gradient(self._losses.loss, forget)
        (dot_gg, dot_gr, dot_rr), by_parameter = model.inner_products(grad_f, grad_r)
        sums = {"dot_gg": dot_gg, "dot_gr": dot_gr, "dot_rr": dot_rr}
        packet = engine.Packet(by_parameter, loss_r=loss_r, loss_f=loss_f, **sums).all_reduce_()
        weight = packet["loss_r"].new_full((), self._config.weight)
        packet.extend(lambda_t=weight)
        finite = packet.values.isfinite().all()
        delta = grad_r.add_scaled_(weight, grad_f)
        skip = 1 - finite.double()
        update = Update(delta, packet, skip, norm_squared=lambda: _two_gradients.norm_squared(packet))
        return _two_gradients.diagnosed(update, model, grad_f) if diagnose else update

    def explain(self, values: dict[str, float]) -> dict[str, float]:
        return _two_gradients.explain(values)
