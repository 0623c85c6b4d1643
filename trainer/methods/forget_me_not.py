"""Forget-Me-Not, arXiv 2303.17591: cross-attention turns away from the tokens that name the concept.

    δ = ∇E ‖A‖_F,   A the attention probabilities at the concept's tokens, of every layer, head and place in the picture

x_t is D_f noised, and what the model says of it counts for nothing; D_r is not trained on. The norm is taken of each
sample by itself, so that neither micro-batches nor ranks change it; the released code takes one over a batch, which has
one sample there.

Its tokens are those of the prompt that spell one of the words in `concept`, and, with `with_end`, the one that ends the
prompt. Where a model fills prompts up with that same token, as Stable Diffusion 1.x does and the released code's 2.1
does not, that code would take all of the filling, too; here it is the first. It can also learn new tokens for the
concept beforehand (textual inversion), which is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .. import engine
from ..config import EngineConfig, MethodConfig, Precision, Sought
from ..config.cost import Cost
from ..errors import ConfigError
from . import Stateless, Update

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engine import ShardedModel
    from ..objectives.objective import Losses


@dataclass(frozen=True)
class ForgetMeNotConfig(MethodConfig):
    """Cross-attention away from the words that name the concept, of models told prompts (arXiv 2303.17591)."""

    name: Literal["forget_me_not"] = "forget_me_not"
    """Which method."""
    concept: tuple[str, ...] = ()
    """Words that name it: every prompt of D_f holds one at least. A request of words gives its own."""
    with_end: bool = True
    """Also away from the token that ends a prompt, which has read all of its words."""

    uses_own_targets: ClassVar[bool] = True
    asks_objective_for: ClassVar[tuple[str, ...]] = ("attention_loss",)

    @property
    def sought(self) -> Sought:
        return Sought(self.concept, self.with_end)

    @property
    def num_gradients_held(self) -> int:
        return 1

    def cost(self, precision: Precision) -> Cost:
        # L_r is looked at
        return Cost(1, 1)

    def check(self, engine: EngineConfig) -> None:
        if engine.compile:
            raise ConfigError(
                "engine.compile: method.name = 'forget_me_not' looks inside the blocks that it compiles: leave it out"
            )

    def check_conditions(self, model: Any, forget: Sequence[Any], remain: Sequence[Any]) -> None:
        from ..engine.attention import check_plain, cross_attention

        option = "method.name = 'forget_me_not'"
        if not model.attends_to_words:
            raise ConfigError(
                f"{option} is about the words of prompts, and this model is told {model.conditions.kind}: use another "
                "method"
            )
        check_plain(cross_attention(model.module), option, "use another method")
        if not self.concept:
            raise ConfigError(f"{option} needs the words that name the concept: set method.concept")
        for prompt in forget:
            if not model.tokens_of_words(prompt, self.concept, with_end=False).any():
                raise ConfigError(
                    f"method.concept: the prompt {prompt!r} of a sample to be forgotten holds none of its words: name "
                    "the word that stands for the concept there, too"
                )

    def without_effect(self) -> dict[str, str]:
        return {"train.descent_every": "the method has no g to descend on"}

    def make(self, losses: Losses[Any]) -> ForgetMeNot:
        return ForgetMeNot(losses)


Config = ForgetMeNotConfig


class ForgetMeNot(Stateless):
    def __init__(self, losses: Losses[Any]):
        self._losses = losses

    def step(self, model: ShardedModel, forget: list[Any], remain: list[Any], step: int, *, diagnose: bool) -> Update:
        loss_r = model.loss(self._losses.loss, remain)
        with self._losses.attention_loss() as attention:
            loss_f, grad_f = model.gradient(attention, forget)
        (dot_ff, _, _), by_parameter = model.inner_products(grad_f, grad_f)
        packet = engine.Packet(by_parameter, loss_r=loss_r, loss_f=loss_f, dot_ff=dot_ff).all_reduce_()
        finite = packet.values.isfinite().all()
        return Update(grad_f, packet, skip=1 - finite.double(), norm_squared=lambda: packet["dot_ff"])
