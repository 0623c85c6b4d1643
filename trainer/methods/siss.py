"""SISS, arXiv 2503.01034: away from the noise of D_f's samples, on inputs that are as likely those of remaining ones.

Pairs of a remaining sample x and a forgotten one a share a timestep, and one of them is noised: with the chance λ it is
a. Of that input m_t, with what importance w it has for either,

    ℓ_x = w_x ‖(m_t - γ_t x)/σ_t - ε_θ(m_t)‖²,   w_x = q(m_t | x) / ((1 - λ) q(m_t | x) + λ q(m_t | a))
    ℓ_a = w_a ‖(m_t - γ_t a)/σ_t - ε_θ(m_t)‖²,   w_a alike
    δ = ∇E ℓ_x - s ∇E ℓ_a,                       s such that the second is `forget_norm` times as long as the first

E ℓ_x is L_r and E ℓ_a D_f's own loss, whatever λ is. For k of n samples to be forgotten the paper's objective weighs
the second with k/(n - k), times a factor; what it uses is the second gradient at a fixed norm, a tenth of the first's.
The models there are told nothing, or one prompt. Where x and a are told different conditions, m_t with what it is told
is either's for certain: w is 1/(1 - λ) or 1/λ for the one that is noised and 0 for the other.

The released code takes the norm of the second gradient as a number to be set and clips δ to 1
(`optimizer.max_grad_norm` here); x is of D_r there, as it is here, where the paper writes of all data. It takes both
gradients from one forward pass; here a gradient has its own, of the same input and to the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..config import MethodConfig, Precision
from ..config.base import NotNegative
from ..config.cost import Cost
from ..errors import ConfigError
from . import _two_gradients

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ..engine import Packet, ShardedModel
    from ..objectives.objective import Losses


@dataclass(frozen=True)
class SISSConfig(MethodConfig):
    """Away from D_f's noise on mixtures with remaining samples, weighted by importance (arXiv 2503.01034)."""

    name: Literal["siss"] = "siss"
    """Which method."""
    forget_chance: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """λ, the chance that of a pair the forgotten sample is noised."""
    forget_norm: NotNegative = 0.1
    """Length of the gradient that leads away from D_f, in lengths of L_r's."""

    uses_own_targets: ClassVar[bool] = True
    asks_objective_for: ClassVar[tuple[str, ...]] = ("mixtures",)

    def cost(self, precision: Precision) -> Cost:
        return Cost(2)

    def check_conditions(self, model: Any, forget: Sequence[Any], remain: Sequence[Any]) -> None:
        from ..models.conditions import told_alike

        kept = {told_alike(condition) for condition in remain}
        alone = next((condition for condition in forget if told_alike(condition) not in kept), None)
        if alone is not None:
            raise ConfigError(
                "method.name = 'siss' mixes forgotten samples with remaining ones that are told the same, and nothing "
                f"remains that is told {alone!r}: it is for single samples; use method.name = 'neggrad', or a method "
                "with a target"
            )

    def make(self, losses: Losses[Any]) -> SISS:
        return SISS(self, losses)


Config = SISSConfig


class SISS(_two_gradients.Weighted):
    advice = "method.forget_norm or "

    def __init__(self, config: SISSConfig, losses: Losses[Any]):
        def weights(packet: Packet) -> tuple[Tensor, Tensor]:
            """1 and -s."""
            norm_r, norm_f = packet["dot_rr"].sqrt(), packet["dot_gg"].sqrt()
            return norm_r.new_ones(()), -config.forget_norm * _two_gradients.divided(norm_r, norm_f)

        super().__init__(losses, weights)
        self._config = config

    def _batches(self, model: ShardedModel, forget: list[Any], remain: list[Any]) -> tuple[list[Any], list[Any]]:
        remain, forget = self._losses.mixtures(remain, forget, self._config.forget_chance)
        return forget, remain
