"""Steps of two gradients, and what is logged of a step δ = w (∇L_r + λ ∇g): how they stand to each other and to δ."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .. import engine
from . import Stateless, Update

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ..engine import Packet, ShardedModel, ShardedVector
    from ..objectives.objective import Losses


def norm_squared(packet: Packet) -> Tensor:
    """‖δ‖² = ‖∇L_r‖² + 2λ ⟨∇g, ∇L_r⟩ + λ² ‖∇g‖², 0-dim."""
    lambda_t = packet["lambda_t"]
    return packet["dot_rr"] + 2 * lambda_t * packet["dot_gr"] + lambda_t.square() * packet["dot_gg"]


def divided(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is."""
    is_zero = b == 0
    return (a / b.masked_fill(is_zero, 1)).masked_fill(is_zero, 0)


class Weighted(Stateless):
    """δ = w_r ∇L_r + w_f ∇L_f, with ∇g = ∇L_f, on the batches that `_batches` makes.

    weights: w_r and w_f, 0-dim fp64, from the packet's inner products, which are those of all ranks.
    """

    def __init__(self, losses: Losses[Any], weights: Callable[[Packet], tuple[Tensor, Tensor]]):
        self._losses = losses
        self._weights = weights

    def _batches(self, model: ShardedModel, forget: list[Any], remain: list[Any]) -> tuple[list[Any], list[Any]]:
        """What L_f and L_r are of."""
        return self._losses.with_forget_targets(model, forget), remain

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        forget, remain = self._batches(model, forget, remain)
        loss_r, grad_r = model.gradient(self._losses.loss, remain)
        loss_f, grad_f = model.gradient(self._losses.loss, forget)
        (dot_gg, dot_gr, dot_rr), by_parameter = model.inner_products(grad_f, grad_r)
        sums = {"dot_gg": dot_gg, "dot_gr": dot_gr, "dot_rr": dot_rr}
        packet = engine.Packet(by_parameter, loss_r=loss_r, loss_f=loss_f, **sums).all_reduce_()
        finite = packet.values.isfinite().all()
        weight_r, weight_f = self._weights(packet)
        packet.extend(weight_r=weight_r, weight_f=weight_f)
        delta = grad_r.mul_(weight_r).add_scaled_(weight_f, grad_f)
        update = Update(delta, packet, 1 - finite.double(), norm_squared=lambda: _weighted_norm_squared(packet))
        return diagnosed(update, model, grad_f) if diagnose else update

    def explain(self, values: dict[str, float]) -> dict[str, float]:
        return explain(values)


def _weighted_norm_squared(packet: Packet) -> Tensor:
    weight_r, weight_f = packet["weight_r"], packet["weight_f"]
    mixed = 2 * weight_r * weight_f * packet["dot_gr"]
    return weight_r.square() * packet["dot_rr"] + mixed + weight_f.square() * packet["dot_gg"]


def conflict(model: ShardedModel, packet: Packet) -> dict[str, Tensor]:
    """The cosine of ∇g and ∇L_r in each layer; "conflict/layer", on the device."""
    cosines = packet.cosines_by_layer(model.layers)
    return {f"conflict/{layer}": value for layer, value in cosines.items()}


@dataclass(frozen=True)
class Descent:
    """⟨∇g, θ_t - θ_{t+1}⟩ of the step that the optimizer made of δ: the guarantee is δ's, and Adam may break it."""

    model: ShardedModel
    grad_f: ShardedVector
    grad_phi: ShardedVector | None
    """∇g = grad_f [- grad_phi]."""

    def __call__(self, moved: ShardedVector) -> dict[str, Tensor]:
        sums, _ = self.model.inner_products(self.grad_f, moved, self.grad_phi)
        return {"descent": engine.sum_(sums)[1]}


def diagnosed(
    update: Update, model: ShardedModel, grad_f: ShardedVector, grad_phi: ShardedVector | None = None
) -> Update:
    """The update with what is logged on some steps alone: the conflict by layer, and the descent."""
    update.packet.extend(**conflict(model, update.packet))
    return replace(update, observe=Descent(model, grad_f, grad_phi))


def explain(values: dict[str, float]) -> dict[str, float]:
    """A packet's scalars and what follows: cosines of ∇g, ∇L_r and δ (Fig. 2), the shortfall of a clipped δ."""
    gg, gr, rr = values["dot_gg"], values["dot_gr"], values["dot_rr"]
    weight_r, weight_f = values.get("weight_r", 1.0), values["weight_f"] if "weight_f" in values else values["lambda_t"]
    delta_g, delta_r = weight_r * gr + weight_f * gg, weight_r * rr + weight_f * gr
    delta_delta = weight_r * delta_r + weight_f * delta_g

    def cosine(product: float, a: float, b: float) -> float:
        return product / math.sqrt(a * b) if a > 0 and b > 0 else 0.0

    if "a_t" in values and values.get("clip", 1.0) < 1.0:
        values = values | {"shortfall": max(0.0, values["a_t"] - values["clip"] * delta_g)}
    return values | {
        "cos_g_r": cosine(gr, gg, rr),
        "cos_delta_g": cosine(delta_g, delta_delta, gg),
        "cos_delta_r": cosine(delta_r, delta_delta, rr),
    }
