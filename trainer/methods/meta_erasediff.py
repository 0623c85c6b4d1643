"""EraseDiff where relearning would lead, too: what is forgotten shall stay so when a model is trained on D_f again.

A relearner is simulated in every step, K steps of rate r on D_f's own loss L, eq. (1) of arXiv 2401.05779:

    φ⁰ = θ_t;   φ^{k+1} = φ^k - r sign ∇L(φ^k),  k = 0..K-1          as Adam's first steps are
    δ = ∇L_r + λ ∇L_f(θ_t) + μ ∇L_f(φ^K)                             the closest to ∇L_r with, as eq. (6) there,
        ⟨∇L_f(θ_t), δ⟩ ≥ η ‖∇L_f(θ_t)‖²  and  ⟨∇L_f(φ^K), δ⟩ ≥ η ‖∇L_f(φ^K)‖²

to first order: how φ^K moves with θ is left out, as in first-order MAML. λ and μ solve the quadratic programme exactly,
from the Gram matrix of the three gradients. Kin: meta-unlearning (arXiv 2410.12777) and ResAlign (arXiv 2507.16302).
Without the constraint at φ^K it is EraseDiff, with the gradient of g `envelope` and the barrier `norm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .. import engine
from ..config import EngineConfig, Precision, TargetedConfig
from ..config.base import AtLeast1, NotNegative, Positive
from ..config.cost import Cost
from ..errors import ConfigError
from . import Stateless, Update, _two_gradients

if TYPE_CHECKING:
    from torch import Tensor

    from ..engine import Packet, ShardedModel, ShardedVector
    from ..objectives.objective import Losses


@dataclass(frozen=True)
class MetaEraseDiffConfig(TargetedConfig):
    """EraseDiff with a second constraint, at weights that simulated relearning leads to."""

    name: Literal["meta_erasediff"] = "meta_erasediff"
    """Which method."""
    eta: NotNegative = 0.05
    """η of both barriers, a = η‖∇L_f‖²."""
    lambda_cap: NotNegative | None = 1.0
    """Upper bound on λ and on μ; breaks the constraints on the steps it caps, which are counted. none: no cap."""
    num_relearning_steps: AtLeast1 = 2
    """K, the simulated relearner's steps."""
    relearning_rate: Positive = 4e-5
    """r, how far a step of it moves each weight."""
    holds_theta: bool = True
    """Whether the constraint at θ_t is kept, too; else the one at φ^K alone, for a gradient less."""

    asks_objective_for: ClassVar[tuple[str, ...]] = ("with_own_targets",)

    @property
    def takes_inner_gradients(self) -> bool:
        return True

    def cost(self, precision: Precision) -> Cost:
        # ∇L_r, K of the relearner, ∇L_f(φ^K) and ∇L_f(θ_t)
        num_gradients = self.num_relearning_steps + 2 + self.holds_theta
        # φ¹ … φ^K, and θ_t again
        publications = 1 + self.num_relearning_steps + self.holds_theta
        return Cost(num_gradients, publications=publications) + self.cost_of_target

    @property
    def num_gradients_held(self) -> int:
        # ∇L_r, the relearner's way and the gradient that is added to it
        return 3

    @property
    def num_gradients_of_delta(self) -> int:
        return 2 + self.holds_theta

    def without_effect(self) -> dict[str, str]:
        return super().without_effect() | {
            "train.descent_every": "the descent on a g of two constraints is not measured"
        }

    def check(self, engine: EngineConfig) -> None:
        if engine.precision == "bf16":
            raise ConfigError(
                "engine.precision = 'bf16' rounds the steps of method.name = 'meta_erasediff' away: use "
                "'bf16-autocast' or 'fp32'"
            )

    def make(self, losses: Losses[Any]) -> MetaEraseDiff:
        return MetaEraseDiff(self, losses)


Config = MetaEraseDiffConfig


class MetaEraseDiff(Stateless):
    advice = "method.eta, method.lambda_cap or "

    def __init__(self, config: MetaEraseDiffConfig, losses: Losses[Any]):
        self._config = config
        self._losses = losses

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        config, loss = self._config, self._losses.loss
        own = self._losses.with_own_targets(forget)
        # the same x_t and targets, of θ_t, at θ_t and at φ^K
        forget = self._losses.with_forget_targets(model, forget)
        loss_r, grad_r = model.gradient(loss, remain)
        away = self._relearn(model, own)
        with model.displaced(away, -config.relearning_rate):
            loss_phi, grad_phi = model.gradient(loss, forget)
        del away, own
        if config.holds_theta:
            loss_f, grad_f = model.gradient(loss, forget)
        else:
            loss_f, grad_f = loss_phi, grad_phi

        sums, by_parameter = model.inner_products(grad_f, grad_r, grad_phi)
        losses = {"loss_r": loss_r, "loss_f": loss_f, "loss_phi": loss_phi}
        packet = engine.Packet(by_parameter, **losses, **_gram(sums)).all_reduce_()
        finite = packet.values.isfinite().all().double()
        lambda_t, mu_t = self._multipliers(packet)
        capped = packet["loss_f"].new_zeros(())
        if config.lambda_cap is not None:
            capped = ((lambda_t > config.lambda_cap) | (mu_t > config.lambda_cap)).double()
            lambda_t, mu_t = lambda_t.clamp(max=config.lambda_cap), mu_t.clamp(max=config.lambda_cap)
        packet.extend(lambda_t=lambda_t, mu_t=mu_t, capped=capped)

        delta = grad_r.add_scaled_(mu_t, grad_phi)
        if config.holds_theta:
            delta.add_scaled_(lambda_t, grad_f)
        return Update(delta, packet, 1 - finite, norm_squared=lambda: _norm_squared(packet))

    def explain(self, values: dict[str, float]) -> dict[str, float]:
        if self._config.holds_theta:
            return values
        # nothing was taken at θ_t: these are φ^K's once more
        return {name: value for name, value in values.items() if name not in ("loss_f", "dot_ff", "dot_fr", "dot_fp")}

    def _multipliers(self, packet: Packet) -> tuple[Tensor, Tensor]:
        eta, ff, pp = self._config.eta, packet["dot_ff"], packet["dot_pp"]
        # what of the barriers ∇L_r alone does not give
        missing_f, missing_p = eta * ff - packet["dot_fr"], eta * pp - packet["dot_pr"]
        if not self._config.holds_theta:
            zero = ff.new_zeros(())
            return zero, _two_gradients.divided(missing_p, pp).clamp(min=0)
        return engine.two_multipliers((ff, packet["dot_fp"], pp), (missing_f, missing_p))

    def _relearn(self, model: ShardedModel, own: list[Any]) -> ShardedVector:
        """(θ_t - φ^K) / r, the sum of the signs. own: D_f's micro-batches as a relearner trains on them."""
        _, away = model.gradient(self._losses.loss, own)
        away.data.sign_()
        for _ in range(1, self._config.num_relearning_steps):
            with model.displaced(away, -self._config.relearning_rate):
                _, gradient = model.gradient(self._losses.loss, own)
            gradient.data.sign_()
            away.axpy_(1.0, gradient)
            del gradient  # the next one is made where it was
        return away


def _gram(sums: Tensor) -> dict[str, Tensor]:
    """Inner products of r = ∇L_r, f = ∇L_f(θ_t) and p = ∇L_f(φ^K), from those of f, r and f - p."""
    dd, dr, rr, ff, fr, fd = sums.unbind()
    return {"dot_rr": rr, "dot_ff": ff, "dot_fr": fr, "dot_fp": ff - fd, "dot_pp": dd + ff - 2 * fd, "dot_pr": fr - dr}


def _norm_squared(packet: Packet) -> Tensor:
    lambda_t, mu_t = packet["lambda_t"], packet["mu_t"]
    of_theta = lambda_t * (2 * packet["dot_fr"] + lambda_t * packet["dot_ff"] + 2 * mu_t * packet["dot_fp"])
    return packet["dot_rr"] + of_theta + mu_t * (2 * packet["dot_pr"] + mu_t * packet["dot_pp"])
