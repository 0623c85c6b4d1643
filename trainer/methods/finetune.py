"""Plain training on D_r, eq. (1) alone: δ = ∇L_r."""

from __future__ import annotations

from ..engine.packet import Packet
from ..engine.sharded_model import ShardedModel
from ..objectives.diffusion import DiffusionBatch, DiffusionObjective
from . import Update


class Finetune:
    needs_forget = False

    def __init__(self, objective: DiffusionObjective):
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
        loss_r, grad_r = model.gradient(self._objective.loss, remain)
        (_, _, dot_rr), by_parameter = model.inner_products(grad_r, grad_r)
        packet = Packet(by_parameter, loss_r=loss_r, dot_rr=dot_rr).all_reduce_()
        finite = packet.values.isfinite().all()
        return Update(grad_r, packet, skip=1 - finite.double())
