"""NegGrad: gradient ascent on what D_f's samples were trained by, eq. (1) of arXiv 2401.05779 on D_f, up to a bound.

δ = w ∇L_r - [L(D_f) < max_loss] ∇L(D_f). With w = 0 it is NegGrad, with more what later papers call NegGrad+.

The released code of arXiv 2401.05779 ascends on the remaining samples, and without a bound; its table's row is of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .. import engine
from ..config import MethodConfig, Precision
from ..config.base import NotNegative, Positive
from ..config.cost import Cost
from . import Stateless, Update

if TYPE_CHECKING:
    from torch import Tensor

    from ..engine import ShardedModel
    from ..objectives.objective import Losses


@dataclass(frozen=True)
class NegGradConfig(MethodConfig):
    """Gradient ascent on D_f's own loss, up to a bound, and descent on L_r where it has a weight."""

    name: Literal["neggrad"] = "neggrad"
    """Which method."""
    remain_weight: NotNegative = 0.0
    """w of ∇L_r. 0: D_r's loss is only looked at, and the scrub ends where it runs away (train.max_loss_r_ratio)."""
    max_loss: Positive = 1.0
    """No ascent from this loss of D_f on, but what an optimizer's momentum still does; 1 is that of an output of zeros,
    which says nothing of the noise."""

    uses_own_targets: ClassVar[bool] = True
    asks_objective_for: ClassVar[tuple[str, ...]] = ("with_own_targets",)

    @property
    def num_gradients_held(self) -> int:
        return 2 if self.remain_weight else 1

    def cost(self, precision: Precision) -> Cost:
        return Cost(2) if self.remain_weight else Cost(1, 1)

    def without_effect(self) -> dict[str, str]:
        return {"train.descent_every": "the method has no g to descend on"}

    def make(self, losses: Losses[Any]) -> NegGrad:
        return NegGrad(self, losses)


Config = NegGradConfig


class NegGrad(Stateless):
    def __init__(self, config: NegGradConfig, losses: Losses[Any]):
        self._config = config
        self._losses = losses

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        weight, loss = self._config.remain_weight, self._losses.loss
        # without a weight L_r is looked at
        loss_r, grad_r = model.gradient(loss, remain) if weight else (model.loss(loss, remain), None)
        loss_f, grad_f = model.gradient(loss, self._losses.with_own_targets(forget))
        grad_r = grad_r or grad_f
        (dot_ff, dot_fr, dot_rr), by_parameter = model.inner_products(grad_f, grad_r)
        sums = {"dot_ff": dot_ff} | ({"dot_fr": dot_fr, "dot_rr": dot_rr} if weight else {})
        packet = engine.Packet(by_parameter, loss_r=loss_r, loss_f=loss_f, **sums).all_reduce_()
        ascends = (packet["loss_f"] < self._config.max_loss).double()
        finite = packet.values.isfinite().all().double()
        packet.extend(ascends=ascends)
        if weight:
            delta, skip = grad_r.mul_(weight).add_scaled_(-ascends, grad_f), 1 - finite
        else:
            delta, skip = grad_f.mul_(-ascends), 1 - finite

        def norm_squared() -> Tensor:
            if not weight:
                return ascends * packet["dot_ff"]
            return weight**2 * packet["dot_rr"] - ascends * (2 * weight * packet["dot_fr"] - packet["dot_ff"])

        return Update(delta, packet, skip, norm_squared)
