"""Blindspot unlearning, arXiv 2210.08196: on D_f the model follows one that was trained, a little, on D_r alone.

    P: fresh weights, `num_proxy_steps` steps of AdamW on L_r, before the first step of the scrub
    δ = (1 - α) ∇L_r + α ∇L_p,   L_p = ‖ε_P(x_t | c) - ε_θ(x_t | c)‖² + β Σ_j ‖q_j(P) - q_j(θ)‖² / numel on D_f

q_j says where in the picture the U-Net's block j is active: the mean over channels of its squared output, of length 1
(attention transfer, arXiv 1612.03928). P, the blindspot model, stays as one more sharded vector and travels in
checkpoints. In the comparison of arXiv 2401.05779, in whose released code P is θ itself, β is 0, as it is here by
default; the paper's regressions have 50.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .. import engine
from ..config import EngineConfig, MethodConfig, OptimizerConfig, Precision
from ..config.base import AtLeast1, NotNegative, Positive, Probability
from ..config.cost import Cost
from ..errors import ConfigError
from . import Stateless, Update

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..engine import ShardedModel
    from ..objectives.objective import Batches, Losses


@dataclass(frozen=True)
class BlindspotConfig(MethodConfig):
    """On D_f towards a model that was trained on D_r alone, from nothing (arXiv 2210.08196)."""

    name: Literal["blindspot"] = "blindspot"
    """Which method."""
    alpha: Probability = 0.5
    """α, the weight of D_f's term; L_r has 1 - α."""
    beta: NotNegative = 0.0
    """β, the weight of the distance of activations within D_f's term; 0: none is taken."""
    num_proxy_steps: AtLeast1 = 200
    """Steps on D_r that the blindspot model is trained for."""
    proxy_learning_rate: Positive = 1e-3
    """Of those steps, of AdamW."""

    uses_own_targets: ClassVar[bool] = True
    asks_objective_for: ClassVar[tuple[str, ...]] = ("with_predictions", "transfer_loss")

    @property
    def num_vectors_kept(self) -> int:
        return 1  # P

    @property
    def num_preparing_gradients(self) -> int:
        return self.num_proxy_steps

    def cost(self, precision: Precision) -> Cost:
        # P's prediction; the weights of P, and of θ again
        return Cost(2, 1, publications=2, forward_gathers=1)

    def check(self, engine: EngineConfig) -> None:
        if self.beta and engine.compile:
            raise ConfigError("method.beta looks at the blocks that engine.compile compiles: leave one of them out")

    def check_conditions(self, model: Any, forget: Sequence[Any], remain: Sequence[Any]) -> None:
        if not hasattr(type(model.module), "from_config"):
            raise ConfigError(
                f"method.name = 'blindspot' begins with fresh weights, and how a {type(model.module).__name__} is made "
                "from nothing is not known: use another method"
            )
        if self.beta:
            from ..objectives._activations import blocks_of

            if not blocks_of(model.module):
                raise ConfigError(
                    f"method.beta compares the blocks of a U-Net, which a {type(model.module).__name__} does not "
                    "have: use 0"
                )

    def without_effect(self) -> dict[str, str]:
        return {"train.descent_every": "the method has no g to descend on"}

    def notes(self) -> list[str]:
        return [f"blindspot   {self.num_proxy_steps} steps from fresh weights on D_r before the first step"]

    def make(self, losses: Losses[Any]) -> Blindspot:
        return Blindspot(self, losses)


Config = BlindspotConfig


class Blindspot(Stateless):
    def __init__(self, config: BlindspotConfig, losses: Losses[Any]):
        self._config = config
        self._losses = losses

    def prepare(self, model: ShardedModel, read: Callable[[int], Batches]) -> None:
        config, loss = self._config, self._losses.loss
        proxy = model.fresh_weights()
        optimizer = engine.OuterOptimizer(
            proxy, OptimizerConfig(learning_rate=config.proxy_learning_rate), config.num_proxy_steps
        )
        for number in range(config.num_proxy_steps):
            with model.at(proxy):
                loss_r, grad_r = model.gradient(loss, read(number).remain)
            optimizer.step(grad_r, number, skip=1 - engine.sum_(loss_r).isfinite().double())
        self.state = {"proxy": proxy}

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        alpha, beta, loss = self._config.alpha, self._config.beta, self._losses.loss
        with model.at(self.state["proxy"]):
            forget = self._losses.with_predictions(model, forget, **({"with_maps": True} if beta else {}))
        loss_r, grad_r = model.gradient(loss, remain)
        loss_f, grad_f = model.gradient(self._losses.transfer_loss(beta) if beta else loss, forget)
        (dot_ff, dot_fr, dot_rr), by_parameter = model.inner_products(grad_f, grad_r)
        sums = {"dot_ff": dot_ff, "dot_fr": dot_fr, "dot_rr": dot_rr}
        packet = engine.Packet(by_parameter, loss_r=loss_r, loss_f=loss_f, **sums).all_reduce_()
        skip = 1 - packet.values.isfinite().all().double()
        delta = grad_r.mul_(1 - alpha).axpy_(alpha, grad_f)
        mixed = 2 * alpha * (1 - alpha)
        return Update(
            delta,
            packet,
            skip,
            lambda: (1 - alpha) ** 2 * packet["dot_rr"] + mixed * packet["dot_fr"] + alpha**2 * packet["dot_ff"],
        )
