"""What is logged of a step δ = ∇L_r + λ ∇g: how the two gradients stand to each other and to δ."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .. import engine
from . import Update

if TYPE_CHECKING:
    from torch import Tensor

    from ..engine import Packet, ShardedModel, ShardedVector


def norm_squared(packet: Packet) -> Tensor:
    """‖δ‖² = ‖∇L_r‖² + 2λ ⟨∇g, ∇L_r⟩ + λ² ‖∇g‖², 0-dim."""
    lambda_t = packet["lambda_t"]
    return packet["dot_rr"] + 2 * lambda_t * packet["dot_gr"] + lambda_t.square() * packet["dot_gg"]


def conflict(model: ShardedModel, packet: Packet) -> dict[str, Tensor]:
    """The cosine of ∇g and ∇L_r in each layer; "conflict/layer", on the device."""
    cosines = packet.cosines_by_layer(model.parameter_names)
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
    gg, gr, rr, lambda_t = values["dot_gg"], values["dot_gr"], values["dot_rr"], values["lambda_t"]
    delta_delta = rr + 2 * lambda_t * gr + lambda_t**2 * gg

    def cosine(product: float, a: float, b: float) -> float:
        return product / math.sqrt(a * b) if a > 0 and b > 0 else 0.0

    if "a_t" in values and values.get("clip", 1.0) < 1.0:
        values = values | {"shortfall": max(0.0, values["a_t"] - values["clip"] * (gr + lambda_t * gg))}
    return values | {
        "cos_g_r": cosine(gr, gg, rr),
        "cos_delta_g": cosine(gr + lambda_t * gg, delta_delta, gg),
        "cos_delta_r": cosine(rr + lambda_t * gr, delta_delta, rr),
    }
