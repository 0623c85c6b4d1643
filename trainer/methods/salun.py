"""SalUn, arXiv 2310.12508: random relabelling of the weights that matter most to D_f.

A mask m is made before the first step: 1 for the weights whose |∇ of D_f's own loss|, summed over `num_mask_batches`
batches at θ_0 before its magnitude is taken, is above the quantile that leaves `saliency` of all weights; the quantile
is exact over all shards. Then δ = m ⊙ (∇L_f + w ∇L_r), L_f with the target rl.

The released code of arXiv 2401.05779's comparison sums L_r where this and the original mean it, relabels to the class
after the forgotten one, and takes 1e-3 for w; `method.anchor` names a fixed class here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from .. import engine
from ..config import OptimizerConfig, Precision, TargetedConfig
from ..config.base import AtLeast1, NotNegative
from ..config.cost import Cost
from ..errors import ConfigError, TrainingError
from ..ranks import collectives
from . import Stateless, Update

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..engine import ShardedModel
    from ..objectives.objective import Batches, Losses


@dataclass(frozen=True)
class SalUnConfig(TargetedConfig):
    """Random relabelling of the most salient weights alone (arXiv 2310.12508)."""

    name: Literal["salun"] = "salun"
    """Which method."""
    saliency: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    """Share of the weights that may move."""
    num_mask_batches: AtLeast1 = 16
    """Batches of D_f whose gradients are summed to find them."""
    remain_weight: NotNegative = 1.0
    """w of ∇L_r."""

    asks_objective_for: ClassVar[tuple[str, ...]] = ("with_own_targets",)

    def cost(self, precision: Precision) -> Cost:
        return Cost(2) + self.cost_of_target

    @property
    def num_vectors_kept(self) -> int:
        return 1  # the mask

    @property
    def num_preparing_gradients(self) -> int:
        return self.num_mask_batches

    def check_optimizer(self, optimizer: OptimizerConfig) -> None:
        if optimizer.weight_decay:
            raise ConfigError(
                f"optimizer.weight_decay = {optimizer.weight_decay:g} moves all weights, and method.name = 'salun' "
                "those of its mask alone: use 0"
            )

    def without_effect(self) -> dict[str, str]:
        return super().without_effect() | {"train.descent_every": "the method has no g to descend on"}

    def notes(self) -> list[str]:
        return [f"saliency    {self.num_mask_batches} gradients before the first step"]

    def make(self, losses: Losses[Any]) -> SalUn:
        return SalUn(self, losses)


Config = SalUnConfig


class SalUn(Stateless):
    advice = "method.remain_weight or "

    def __init__(self, config: SalUnConfig, losses: Losses[Any]):
        self._config = config
        self._losses = losses

    def prepare(self, model: ShardedModel, read: Callable[[int], Batches]) -> None:
        saliency = None
        for number in range(self._config.num_mask_batches):
            own = self._losses.with_own_targets(read(number).forget)
            _, gradient = model.gradient(self._losses.loss, own)
            saliency = gradient if saliency is None else saliency.axpy_(1.0, gradient)
        assert saliency is not None
        magnitude, threshold = saliency.data.abs(), saliency.abs_quantile(1 - self._config.saliency)
        # all of them, those without a gradient, too
        mask = magnitude > threshold if self._config.saliency < 1 else magnitude >= 0
        if collectives.sum_(mask.sum().double() + (~magnitude.isfinite()).sum().double()) == 0:
            raise TrainingError(
                f"method.saliency = {self._config.saliency:g} leaves no weight to move, and the model would stay as it "
                "is: raise it"
            )
        # what is not finite is refused before the first step
        saliency.data.copy_(mask.float().masked_fill_(~magnitude.isfinite(), float("nan")))
        self.state = {"mask": saliency}

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        mask, weight = self.state["mask"], self._config.remain_weight
        forget = self._losses.with_forget_targets(model, forget)
        loss_r, grad_r = model.gradient(self._losses.loss, remain)
        loss_f, grad_f = model.gradient(self._losses.loss, forget)
        grad_r.data.mul_(mask.data)
        grad_f.data.mul_(mask.data)
        (dot_ff, dot_fr, dot_rr), by_parameter = model.inner_products(grad_f, grad_r)
        sums = {"dot_ff": dot_ff, "dot_fr": dot_fr, "dot_rr": dot_rr}
        packet = engine.Packet(by_parameter, loss_r=loss_r, loss_f=loss_f, **sums).all_reduce_()
        skip = 1 - packet.values.isfinite().all().double()
        delta = grad_f.axpy_(weight, grad_r)
        return Update(
            delta,
            packet,
            skip,
            lambda: packet["dot_ff"] + 2 * weight * packet["dot_fr"] + weight**2 * packet["dot_rr"],
        )
