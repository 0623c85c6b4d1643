"""EraseDiff: Algorithm 1 of "Erasing Undesirable Influence in Diffusion Models", arXiv 2401.05779.

Symbols as there: θ parameters, φ inner parameters, L_r and L_f the losses of eqs. (1) and (2), K inner steps of size ξ,
g(θ) = L_f(θ) - L_f(φ^K), λ_t of Theorem 3.1, δ the update.
"""

from __future__ import annotations

from torch import Tensor

from ...kernels.combine import combine_
from ...kernels.multiplier import multiplier
from ..config import EraseDiffConfig
from ..engine.packet import Packet
from ..engine.sharded_model import ShardedModel
from ..engine.vector import ShardedVector
from ..objectives.diffusion import DiffusionBatch, DiffusionObjective
from . import Update


class EraseDiff:
    needs_forget = True

    def __init__(self, config: EraseDiffConfig, objective: DiffusionObjective):
        self._config = config
        self._objective = objective

    def step(
        self,
        model: ShardedModel,
        forget: list[DiffusionBatch],
        remain: list[DiffusionBatch],
        step: int,
        *,
        keep_gradient_of_g: bool,
    ) -> Update:
        config, loss = self._config, self._objective.loss
        # the same forget batch, noise and target serve L_f(θ_t) and every L_f(φ^k), or g's sign is noise
        forget = self._objective.with_forget_targets(model, forget)

        loss_r, grad_r = model.gradient(loss, remain)  # ∇L_r(θ_t), eq. (1)
        # ∇L_f(θ_t), eq. (2); φ⁰ = θ_t, so also the first inner gradient
        loss_f, grad_f = model.gradient(loss, forget, exact=config.subtracts_gradients)

        losses = {"loss_r": loss_r, "loss_f": loss_f}
        grad_phi = None
        if config.needs_inner_loop or (config.inner_every and step % config.inner_every == 0):
            # the loss that came with an autocast gradient is too coarse to subtract from
            if model.rounds_passes and not config.subtracts_gradients and config.num_inner_steps > 0:
                losses["loss_f"] = model.loss(loss, forget, exact=True)
            losses["loss_phi"], grad_phi = self._inner_loop(model, forget, losses["loss_f"], grad_f)

        # ∇g = ∇L_f(θ_t) [- ∇L_f(φ^K)]
        sums, by_parameter = model.inner_products(grad_f, grad_r, grad_phi)
        packet = Packet(by_parameter, **losses, **_named(sums)).all_reduce_()
        # g(θ_t) = L_f(θ_t) - L_f(φ^K)
        g = packet["loss_f"] - packet["loss_phi"] if "loss_phi" in losses else None
        theorem = multiplier(  # Theorem 3.1
            packet.values[len(losses) :],
            barrier=config.barrier,
            eta=config.eta,
            g=g if config.barrier == "value" else None,
            lambda_cap=config.lambda_cap,
        )
        packet.extend(**theorem._asdict(), **({} if g is None else {"g": g}))
        finite = theorem.finite * packet["loss_r"].isfinite() * packet["loss_f"].isfinite()

        # δ = ∇L_r + λ_t ∇g
        kept = (grad_f, grad_phi) if keep_gradient_of_g else None
        delta = combine_(grad_r.data, theorem.lambda_t, grad_f.data, None if grad_phi is None else grad_phi.data)
        return Update(ShardedVector(model.theta.layout, delta), packet, skip=1 - finite, gradient_of_g=kept)

    def _inner_loop(
        self, model: ShardedModel, forget: list[DiffusionBatch], loss_f: Tensor, grad_f: ShardedVector
    ) -> tuple[Tensor, ShardedVector | None]:
        """φ^{k+1} = φ^k - ξ ∇L_f(φ^k) for k = 0 … K-1; returns L_f(φ^K), and ∇L_f(φ^K) where ∇g needs it.

        φ^k = θ_t - ξ (∇L_f(φ⁰) + … + ∇L_f(φ^{k-1})) is one displacement of θ_t and never stored. What is subtracted, at
        θ_t and at φ^K, is exact: bf16 arithmetic rounds a step of ξ away. The steps between need only their direction.
        """
        config, loss = self._config, self._objective.loss
        if config.num_inner_steps == 0:  # φ^K = θ_t
            return loss_f, grad_f if config.gradient_of_g == "first_order" else None
        descent = grad_f if config.num_inner_steps == 1 else grad_f.clone()
        for _ in range(1, config.num_inner_steps):
            with model.displaced(descent, -config.xi):
                _, grad_k = model.gradient(loss, forget)
            descent.axpy_(1.0, grad_k)
        with model.displaced(descent, -config.xi):
            if config.subtracts_gradients:
                return model.gradient(loss, forget, exact=True)
            return model.loss(loss, forget, exact=True), None


def _named(sums: Tensor) -> dict[str, Tensor]:
    """The sums of `inner_products` under the names the log uses; with ∇L_f(φ^K) there are six."""
    names = ["dot_gg", "dot_gr", "dot_rr", "dot_ff", "dot_fr", "dot_fg"]
    return dict(zip(names, sums.unbind(), strict=False))
