"""EraseDiff: Algorithm 1 of "Erasing Undesirable Influence in Diffusion Models", arXiv 2401.05779.

Symbols as there: θ parameters, φ inner parameters, L_r and L_f the losses of eqs. (1) and (2), K inner steps of size ξ,
g(θ) = L_f(θ) - L_f(φ^K), λ_t of Theorem 3.1, δ the update.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .. import engine
from ..config import EngineConfig, MethodConfig, OptimizerConfig, Precision, TargetedConfig, TrainConfig
from ..config.base import LATER, AtLeast0, NotNegative
from ..config.cost import Cost
from ..errors import ConfigError
from . import Stateless, Update, _two_gradients

if TYPE_CHECKING:
    from torch import Tensor

    from ..engine import ShardedModel, ShardedVector
    from ..objectives.objective import Losses


@dataclass(frozen=True)
class EraseDiffConfig(TargetedConfig):
    """EraseDiff, Algorithm 1 of arXiv 2401.05779, with Theorem 3.1's multiplier λ_t."""

    name: Literal["erasediff"] = "erasediff"
    """Which method."""
    gradient_of_g: Literal["envelope", "first_order"] = "envelope"
    """∇g = ∇L_f(θ) with φ^K held constant, or ∇L_f(θ) - ∇L_f(φ^K)."""
    barrier: Literal["norm", "value"] = "norm"
    """a_t = η‖∇g‖² (the paper's) or η·max(g, 0)."""
    eta: NotNegative = LATER
    """η of the barrier a_t, by default 0.5 with rl, 1e-4 with noise; the optimizer's learning rate is apart."""
    lambda_cap: NotNegative | None = 3.0
    """Upper bound on λ_t; breaks Theorem 3.1's constraint on the steps it caps, which are counted. none: no cap."""
    num_inner_steps: AtLeast0 = 1
    """K, plain SGD steps on L_f from θ_t to φ^K. Changes nothing with envelope and norm."""
    xi: NotNegative = 1e-3
    """ξ, learning rate of the inner steps."""
    inner_every: AtLeast0 = 0
    """With envelope and norm: compute φ^K, to log g, on every n-th step; 0 never. Otherwise it is always computed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta is None:
            object.__setattr__(self, "eta", self.target_kind().eta)

    @property
    def needs_inner_loop(self) -> bool:
        return self.barrier == "value" or self.gradient_of_g == "first_order"

    @property
    def subtracts_gradients(self) -> bool:
        """Whether ∇g is a difference of two gradients."""
        return self.gradient_of_g == "first_order" and self.num_inner_steps > 0

    @property
    def takes_inner_gradients(self) -> bool:
        loops = self.needs_inner_loop or self.inner_every > 0
        # the first is ∇L_f(θ); L_f(φ^K) takes none
        return self.subtracts_gradients or (loops and self.num_inner_steps > 1)

    @property
    def num_gradients_held(self) -> int:
        # ∇L_r, ∇L_f(θ); the inner steps' sum and the gradient that is added to it, or ∇L_f(φ^K)
        return 4 if self.takes_inner_gradients and self.num_inner_steps > 1 else self.num_gradients_of_delta

    @property
    def num_gradients_of_delta(self) -> int:
        return 2 + self.subtracts_gradients

    def cost(self, precision: Precision) -> Cost:
        num_steps, rounds = self.num_inner_steps, precision in ("tf32", "bf16-autocast")
        if not self.needs_inner_loop or num_steps == 0:
            return Cost(2) + self.cost_of_target
        publications = 1 + num_steps  # θ_{t+1}, φ¹ … φ^K
        if self.subtracts_gradients:
            own = Cost(num_steps + 2, exact_gradients=2 * rounds, publications=publications)
            return own + self.cost_of_target
        # L_f(φ^K); the loss that comes with a rounded ∇L_f(θ) cannot stand beside it, so that one more is needed
        ends = 1 + rounds
        own = Cost(num_steps + 1, ends, exact_forwards=ends * rounds, publications=publications, forward_gathers=ends)
        return own + self.cost_of_target

    def readings(self) -> dict[str, MethodConfig]:
        envelope = dataclasses.replace(self, gradient_of_g="envelope", barrier="norm", num_inner_steps=0)
        return {
            "K = 0": envelope,
            "K = 1, value": dataclasses.replace(envelope, barrier="value", num_inner_steps=1),
            "K = 1, first_order": dataclasses.replace(envelope, gradient_of_g="first_order", num_inner_steps=1),
        }

    def default_sections(self) -> dict[str, TrainConfig | OptimizerConfig]:
        return self.target_kind().default_sections()

    def check(self, engine: EngineConfig) -> None:
        """Also where bf16 would swallow the inner steps: in the weights, or in gradients on the wire.

        Autocast is off where it would.
        """
        if engine.reduce_dtype == "bf16" and self.subtracts_gradients:
            raise ConfigError(
                "engine.reduce_dtype = 'bf16' rounds away the difference of two gradients that "
                f"method.gradient_of_g = {self.gradient_of_g!r} takes: use engine.reduce_dtype = 'fp32'"
            )
        if engine.precision != "bf16" or not (self.needs_inner_loop or self.inner_every):
            return
        what = (
            f"method.gradient_of_g = {self.gradient_of_g!r} with method.barrier = {self.barrier!r}"
            if self.needs_inner_loop
            else f"method.inner_every = {self.inner_every}"
        )
        raise ConfigError(
            f"engine.precision = 'bf16' rounds the inner steps away, which {what} looks at: "
            "use 'bf16-autocast', which looks in fp32 arithmetic, or 'fp32'"
        )

    def notes(self) -> list[str]:
        if self.needs_inner_loop or self.inner_every:
            return []
        return [
            "inner loop  skipped: with gradient_of_g = 'envelope' and barrier = 'norm', φ^K drops out of the update "
            "exactly; inner_every = n logs g every n steps"
        ]

    def without_effect(self) -> dict[str, str]:
        found = super().without_effect()
        if self.needs_inner_loop:
            found["method.inner_every"] = "φ^K is computed on every step"
        if self.num_inner_steps == 0:
            found["method.xi"] = "there is no inner step"
        if not self.needs_inner_loop and not self.inner_every:
            why = "with gradient_of_g = 'envelope' and barrier = 'norm', φ^K drops out of the update"
            found |= {"method.num_inner_steps": why, "method.xi": why}
        return found

    def make(self, losses: Losses[Any]) -> EraseDiff:
        return EraseDiff(self, losses)


Config = EraseDiffConfig


class EraseDiff(Stateless):
    advice = "method.eta, method.lambda_cap or "

    def __init__(self, config: EraseDiffConfig, losses: Losses[Any]):
        self._config = config
        self._losses = losses

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        config, loss = self._config, self._losses.loss
        # the same forget batch, noise and target serve L_f(θ_t) and every L_f(φ^k), or g's sign is noise
        forget = self._losses.with_forget_targets(model, forget)

        loss_r, grad_r = model.gradient(loss, remain)  # ∇L_r(θ_t), eq. (1)
        # ∇L_f(θ_t), eq. (2); φ⁰ = θ_t, so also the first inner gradient
        loss_f, grad_f = model.gradient(loss, forget, exact=config.subtracts_gradients)

        losses = {"loss_r": loss_r, "loss_f": loss_f}
        grad_phi = None
        if config.needs_inner_loop or (config.inner_every and step % config.inner_every == 0):
            # the loss that came with a rounded gradient is too coarse to subtract from
            if model.rounds_passes and not config.subtracts_gradients and config.num_inner_steps > 0:
                losses["loss_f"] = model.loss(loss, forget, exact=True)
            losses["loss_phi"], grad_phi = self._inner_loop(model, forget, losses["loss_f"], grad_f)

        # ∇g = ∇L_f(θ_t) [- ∇L_f(φ^K)]
        sums, by_parameter = model.inner_products(grad_f, grad_r, grad_phi)
        packet = engine.Packet(by_parameter, **losses, **_named(sums)).all_reduce_()
        # g(θ_t) = L_f(θ_t) - L_f(φ^K)
        g = packet["loss_f"] - packet["loss_phi"] if "loss_phi" in losses else None
        theorem = engine.multiplier(  # Theorem 3.1
            packet.values[len(losses) :],
            barrier=config.barrier,
            eta=config.eta,
            g=g if config.barrier == "value" else None,
            lambda_cap=config.lambda_cap,
        )
        packet.extend(**theorem._asdict(), **({} if g is None else {"g": g}))
        finite = theorem.finite * packet["loss_r"].isfinite() * packet["loss_f"].isfinite()

        delta = grad_r.add_scaled_(theorem.lambda_t, grad_f, grad_phi)  # δ = ∇L_r + λ_t ∇g
        update = Update(delta, packet, skip=1 - finite, norm_squared=lambda: _two_gradients.norm_squared(packet))
        return _two_gradients.diagnosed(update, model, grad_f, grad_phi) if diagnose else update

    def _inner_loop(
        self, model: ShardedModel, forget: list[Any], loss_f: Tensor, grad_f: ShardedVector
    ) -> tuple[Tensor, ShardedVector | None]:
        """φ^{k+1} = φ^k - ξ ∇L_f(φ^k) for k = 0 … K-1; returns L_f(φ^K), and ∇L_f(φ^K) where ∇g needs it.

        φ^k = θ_t - ξ (∇L_f(φ⁰) + … + ∇L_f(φ^{k-1})) is one displacement of θ_t and never stored. What is subtracted, at
        θ_t and at φ^K, is exact: coarser arithmetic rounds a step of ξ away. Steps between need only their direction.
        """
        config, loss = self._config, self._losses.loss
        if config.num_inner_steps == 0:  # φ^K = θ_t
            return loss_f, grad_f if config.gradient_of_g == "first_order" else None
        descent = grad_f if config.num_inner_steps == 1 else grad_f.clone()
        for _ in range(1, config.num_inner_steps):
            with model.displaced(descent, -config.xi):
                _, grad_k = model.gradient(loss, forget)
            descent.axpy_(1.0, grad_k)
            del grad_k  # the next one is made where it was
        with model.displaced(descent, -config.xi):
            if config.subtracts_gradients:
                return model.gradient(loss, forget, exact=True)
            return model.loss(loss, forget, exact=True), None

    def explain(self, values: dict[str, float]) -> dict[str, float]:
        return _two_gradients.explain(values)


def _named(sums: Tensor) -> dict[str, Tensor]:
    """The sums of `inner_products` under the names the log uses; with ∇L_f(φ^K) there are six."""
    names = ["dot_gg", "dot_gr", "dot_rr", "dot_ff", "dot_fr", "dot_fg"]
    return dict(zip(names, sums.unbind(), strict=False))
