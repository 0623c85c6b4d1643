"""Selective Amnesia, arXiv 2305.10120: elastic weight consolidation against what forgetting would change beside D_f.

    δ = ∇L_f + γ ∇L_r + 2λ F ⊙ (θ_t - θ_0)

L_f is that of the target `surrogate`: told a class of D_f, the model learns to draw noise. F is the diagonal of the
Fisher information at θ_0, made before the first step: the mean over samples of D_r of the square, elementwise, of each
one's own gradient, its loss being the mean over noise levels. θ_0 stays as one more sharded vector, F as another.

The paper draws its replay with the model itself, as `erasediff concept generate` makes D_r; here D_r is what is given.
Its released code takes sums over elements where losses here are means, and for F sums over all T timesteps, of 500
samples a class: its λ = 10 is λ d T² here, d the elements of a sample. The released code of arXiv 2401.05779's
comparison takes means and leaves λ at 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .. import engine
from ..config import Precision, TargetedConfig
from ..config.base import AtLeast1, NotNegative
from ..config.cost import Cost
from . import Stateless, Update

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..engine import ShardedModel
    from ..objectives.objective import Batches, Losses


@dataclass(frozen=True)
class SelectiveAmnesiaConfig(TargetedConfig):
    """D_f becomes noise, and weights that D_r needs hardly move (arXiv 2305.10120)."""

    name: Literal["selective_amnesia"] = "selective_amnesia"
    """Which method."""
    target: str = "surrogate"
    """ε_f of eq. (2), a file in trainer/objectives/targets."""
    penalty: NotNegative = 1e6
    """λ of the Fisher-weighted squared distance to the original weights."""
    remain_weight: NotNegative = 1.0
    """γ of ∇L_r."""
    num_fisher_batches: AtLeast1 = 1
    """Batches of D_r that F is made of: a gradient for each of their samples, one after the other."""
    num_fisher_levels: AtLeast1 = 20
    """Noise levels, evenly spread, that each of those gradients is the mean over."""

    asks_objective_for: ClassVar[tuple[str, ...]] = ("one_by_one",)

    @property
    def keeps_original(self) -> bool:
        return True

    @property
    def num_vectors_kept(self) -> int:
        return 1  # F

    @property
    def num_preparing_gradients(self) -> int:
        return self.num_fisher_batches * self.num_fisher_levels

    def cost(self, precision: Precision) -> Cost:
        return Cost(2) + self.cost_of_target

    def without_effect(self) -> dict[str, str]:
        return super().without_effect() | {"train.descent_every": "the method has no g to descend on"}

    def notes(self) -> list[str]:
        return [
            f"fisher      {self.num_fisher_batches} batches of D_r before the first step, a gradient for each sample, "
            f"at {self.num_fisher_levels} noise levels"
        ]

    def make(self, losses: Losses[Any]) -> SelectiveAmnesia:
        return SelectiveAmnesia(self, losses)


Config = SelectiveAmnesiaConfig


class SelectiveAmnesia(Stateless):
    advice = "method.remain_weight or "

    def __init__(self, config: SelectiveAmnesiaConfig, losses: Losses[Any]):
        self._config = config
        self._losses = losses

    def prepare(self, model: ShardedModel, read: Callable[[int], Batches]) -> None:
        config, loss = self._config, self._losses.loss
        fisher, count = model.theta.clone().mul_(0.0), 0.0
        for number in range(config.num_fisher_batches):
            for sample in self._losses.one_by_one(read(number).remain, config.num_fisher_levels):
                num_samples, squares = model.squared_gradients(loss, sample)
                fisher.axpy_(1.0, squares)
                count = count + num_samples
        self.state = {"fisher": fisher.mul_(1 / count)}

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        config, loss = self._config, self._losses.loss
        assert model.original is not None, "made with keep_original"
        forget = self._losses.with_forget_targets(model, forget)
        loss_r, grad_r = model.gradient(loss, remain)
        loss_f, grad_f = model.gradient(loss, forget)
        (dot_ff, _, dot_rr), by_parameter = model.inner_products(grad_f, grad_r)
        delta = grad_f.axpy_(config.remain_weight, grad_r)
        del grad_r
        pull = model.theta.clone().axpy_(-1.0, model.original)
        pull.data.mul_(self.state["fisher"].data)
        # F (θ_t - θ_0)², summed
        distance = model.inner_products(model.theta, pull, model.original)[0][1]
        delta.axpy_(2 * config.penalty, pull)
        (dot_dd, _, _), _ = model.inner_products(delta, pull)
        sums = {"dot_ff": dot_ff, "dot_rr": dot_rr, "dot_dd": dot_dd, "penalty": config.penalty * distance}
        packet = engine.Packet(by_parameter, loss_r=loss_r, loss_f=loss_f, **sums).all_reduce_()
        skip = 1 - packet.values.isfinite().all().double()
        return Update(delta, packet, skip, norm_squared=lambda: packet["dot_dd"])
