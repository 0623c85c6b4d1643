"""MUNBa, arXiv 2411.15537: the Nash bargaining solution between remembering and forgetting.

With G the Gram matrix of ∇L_r and ∇L_f, α solves G α = 1/α elementwise, and δ = α_r ∇L_r + α_f ∇L_f. Its solution in
closed form is α = 1 / (‖∇L‖ √(1 + cos)) for either loss, cos that of the two gradients: so δ bisects the angle between
them, and its length is √2 whatever theirs is.

Where the gradients point against each other the players cannot agree: 1 + cos is held at MIN_AGREEMENT, and δ, which is
then shorter than √2, goes to 0 with it. The paper's code writes α in the Gram matrix's elements, which divides 0 by 0
where cos is ±1 or 0, and takes (1, 0.5) there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..config import Precision, TargetedConfig
from ..config.cost import Cost
from . import _two_gradients

if TYPE_CHECKING:
    from torch import Tensor

    from ..engine import Packet
    from ..objectives.objective import Losses

MIN_AGREEMENT = 1e-4


@dataclass(frozen=True)
class MUNBaConfig(TargetedConfig):
    """Nash bargaining between L_r and L_f: along the bisector of their gradients (arXiv 2411.15537)."""

    name: Literal["munba"] = "munba"
    """Which method."""

    def cost(self, precision: Precision) -> Cost:
        return Cost(2) + self.cost_of_target

    def make(self, losses: Losses[Any]) -> _two_gradients.Weighted:
        return _two_gradients.Weighted(losses, _weights)


Config = MUNBaConfig


def _weights(packet: Packet) -> tuple[Tensor, Tensor]:
    """α_r and α_f; a loss whose gradient is zero bargains for nothing."""
    norm_r, norm_f = packet["dot_rr"].sqrt(), packet["dot_gg"].sqrt()
    cosine = _two_gradients.divided(packet["dot_gr"], norm_r * norm_f)
    agreement = (1 + cosine).clamp(min=MIN_AGREEMENT).rsqrt()
    return _two_gradients.divided(agreement, norm_r), _two_gradients.divided(agreement, norm_f)
