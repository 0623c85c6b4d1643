"""The restricted gradient of arXiv 2412.07808: each loss's gradient without its part along the other's.

δ = (∇L_r - ⟨∇L_r, ∇L_f⟩/‖∇L_f‖² ∇L_f) + (∇L_f - ⟨∇L_f, ∇L_r⟩/‖∇L_r‖² ∇L_r), so that to first order neither term
changes the other's loss. The paper's L_f is minus the loss of D_f; here it is eq. (2) of arXiv 2401.05779, as for every
method that has a target.
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


@dataclass(frozen=True)
class RestrictedGradientConfig(TargetedConfig):
    """∇L_r and ∇L_f, each projected off the other (arXiv 2412.07808)."""

    name: Literal["restricted_gradient"] = "restricted_gradient"
    """Which method."""

    def cost(self, precision: Precision) -> Cost:
        return Cost(2) + self.cost_of_target

    def make(self, losses: Losses[Any]) -> _two_gradients.Weighted:
        return _two_gradients.Weighted(losses, _weights)


Config = RestrictedGradientConfig


def _weights(packet: Packet) -> tuple[Tensor, Tensor]:
    """Of ∇L_r and of ∇L_f. Where one of the gradients is zero there is nothing to project off."""
    rr, ff, rf = packet["dot_rr"], packet["dot_gg"], packet["dot_gr"]
    return 1 - _two_gradients.divided(rf, rr), 1 - _two_gradients.divided(rf, ff)
