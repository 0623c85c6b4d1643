"""The naive multi-objective loss, eq. (3) of arXiv 2401.05779: L_r + λ·L_f with a constant λ."""

from __future__ import annotations

import torch

from ...kernels.combine import combine_
from ..config import MOOConfig
from ..engine.packet import Packet
from ..engine.sharded_model import ShardedModel
from ..engine.vector import ShardedVector
from ..objectives.diffusion import DiffusionBatch, DiffusionObjective
from . import Update


class MOO:
    needs_forget = True

    def __init__(self, config: MOOConfig, objective: DiffusionObjective):
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
        forget = self._objective.with_forget_targets(model, forget)
        loss_r, grad_r = model.gradient(self._objective.loss, remain)
        loss_f, grad_f = model.gradient(self._objective.loss, forget)
        (dot_gg, dot_gr, dot_rr), by_parameter = model.inner_products(grad_f, grad_r)
        sums = {"dot_gg": dot_gg, "dot_gr": dot_gr, "dot_rr": dot_rr}
        packet = Packet(by_parameter, loss_r=loss_r, loss_f=loss_f, **sums).all_reduce_()
        weight = torch.full_like(packet["loss_r"], self._config.weight)
        packet.extend(lambda_t=weight)
        finite = packet.values.isfinite().all()
        delta = combine_(grad_r.data, weight, grad_f.data)
        kept = (grad_f, None) if keep_gradient_of_g else None
        return Update(ShardedVector(model.theta.layout, delta), packet, skip=1 - finite.double(), gradient_of_g=kept)
