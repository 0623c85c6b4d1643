"""What each method can be told. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .base import LATER, Settings


@dataclass(frozen=True)
class EraseDiffConfig(Settings):
    """EraseDiff, Algorithm 1 of arXiv 2401.05779, with Theorem 3.1's multiplier λ_t."""

    name: Literal["erasediff"] = "erasediff"
    """Which method."""
    target: Literal["rl", "noise"] = "rl"
    """ε_f of eq. (2): the model's own prediction under another class c_m (rl), or uniform noise (noise)."""
    anchor: int | None = None
    """With rl: always this class as c_m, the null class too; none draws c_m per sample among the remaining classes."""
    teacher: Literal["current", "frozen"] = "current"
    """Whose prediction the rl target is: the model being scrubbed (the paper's) or the original one."""
    gradient_of_g: Literal["envelope", "first_order"] = "envelope"
    """∇g = ∇L_f(θ) with φ^K held constant, or ∇L_f(θ) - ∇L_f(φ^K)."""
    barrier: Literal["norm", "value"] = "norm"
    """a_t = η‖∇g‖² (the paper's) or η·max(g, 0)."""
    eta: float = LATER
    """η of the barrier a_t, by default 0.5 with rl, 1e-4 with noise; the optimizer's learning rate is apart."""
    lambda_cap: float | None = 3.0
    """Upper bound on λ_t; breaks Theorem 3.1's constraint on the steps it caps, which are counted. none: no cap."""
    num_inner_steps: int = 1
    """K, plain SGD steps on L_f from θ_t to φ^K. Changes nothing with envelope and norm."""
    xi: float = 1e-3
    """ξ, learning rate of the inner steps."""
    inner_every: int = 0
    """With envelope and norm: compute φ^K, to log g, on every n-th step; 0 never. Otherwise it is always computed."""

    def __post_init__(self) -> None:
        if self.eta is None:
            object.__setattr__(self, "eta", 0.5 if self.target == "rl" else 1e-4)

    @property
    def needs_inner_loop(self) -> bool:
        return self.barrier == "value" or self.gradient_of_g == "first_order"

    @property
    def subtracts_gradients(self) -> bool:
        """Whether ∇g is a difference of two gradients."""
        return self.gradient_of_g == "first_order" and self.num_inner_steps > 0


@dataclass(frozen=True)
class MOOConfig(Settings):
    """The naive multi-objective loss, eq. (3): L_r + λ·L_f with a constant λ."""

    name: Literal["moo"] = "moo"
    """Which method."""
    target: Literal["rl", "noise"] = "rl"
    """ε_f of eq. (2), as in erasediff."""
    anchor: int | None = None
    """With rl: always this class as c_m; none draws c_m per sample among the remaining classes."""
    teacher: Literal["current", "frozen"] = "current"
    """Whose prediction the rl target is: the model being scrubbed or the original one."""
    weight: float = 1.0
    """λ of eq. (3)."""


@dataclass(frozen=True)
class FinetuneConfig(Settings):
    """Training on the remaining data alone: forgetting by neglect, and what `pretrain` runs."""

    name: Literal["finetune"] = "finetune"
    """Which method."""


MethodConfig = EraseDiffConfig | MOOConfig | FinetuneConfig
METHOD_CONFIGS: dict[str, type[MethodConfig]] = {
    "erasediff": EraseDiffConfig,
    "moo": MOOConfig,
    "finetune": FinetuneConfig,
}
