"""What a method says of itself before anything is loaded. Each method's file has a subclass of `MethodConfig`.

Types of the rooms above this one (models, objectives, methods) are `Any` here: arrows run one way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import PlainValidator, TypeAdapter

from .. import plugins
from ..errors import ConfigError
from .base import AtLeast1, NotNegative, Settings
from .cost import Cost
from .run import EngineConfig, OptimizerConfig, Precision, TrainConfig

DEFAULT_METHOD = "erasediff"


@dataclass(frozen=True)
class Sought:
    """Tokens of prompts."""

    words: tuple[str, ...]
    """Those of any of these words."""
    with_end: bool
    """And the token that ends the prompt."""


@dataclass(frozen=True)
class MethodConfig(Settings):
    """A method's options, and what follows from them: what it needs, what a step costs, what it cannot go with."""

    name: str
    """Which method."""

    needs_forget: ClassVar[bool] = True
    """Whether it reads D_f."""
    uses_own_targets: ClassVar[bool] = False
    """Whether no forget target has a say: D_f is compared with eq. (1)'s targets, or with ones that it makes itself."""
    asks_objective_for: ClassVar[tuple[str, ...]] = ()
    """What it calls of `Losses` that an objective need not have, by name: it is refused on one that lacks them."""

    @property
    def keeps_original(self) -> bool:
        """Whether it needs the original weights, beside those that train."""
        return False

    @property
    def sought(self) -> Sought | None:
        """What it looks for in D_f's prompts, the words of its option `concept`; None: it does not look."""
        return None

    @property
    def takes_inner_gradients(self) -> bool:
        """Whether a step of it takes a gradient at displaced weights."""
        return False

    @property
    def num_gradients_held(self) -> int:
        """Gradients, and sums of them, that a step holds at once at most, each as long as θ."""
        return 1 + self.needs_forget

    @property
    def num_gradients_of_delta(self) -> int:
        """Of them, those that δ is made of: still there as it is applied, where its descent is measured."""
        return self.num_gradients_held

    @property
    def num_vectors_kept(self) -> int:
        """As long as θ, that it carries from step to step."""
        return 0

    @property
    def num_preparing_gradients(self) -> int:
        """Gradients of a batch that it takes before the first step."""
        return 0

    def target_kind(self) -> Any:
        """The `ForgetTarget` that it trains towards on D_f; None: no such one."""
        return None

    def cost(self, precision: Precision) -> Cost:
        """The passes of one outer step."""
        raise NotImplementedError

    def readings(self) -> dict[str, MethodConfig]:
        """Itself with other settings of what its paper leaves open, by name, whose steps a plan sets side by side."""
        return {}

    def default_sections(self) -> dict[str, TrainConfig | OptimizerConfig]:
        """The sections of a scrub by this method that nobody has set."""
        return {"train": TrainConfig(), "optimizer": OptimizerConfig()}

    def check(self, engine: EngineConfig) -> None:
        """Raises ConfigError where its options do not go together, or not with the engine's."""

    def check_optimizer(self, optimizer: OptimizerConfig) -> None:
        """Raises ConfigError where its options do not go together with the optimizer's."""

    def check_conditions(self, model: Any, forget: Sequence[Any], remain: Sequence[Any]) -> None:
        """Raises ConfigError where it cannot work on this model, told these conditions in D_f and in D_r."""

    def notes(self) -> list[str]:
        """Lines that are said once, before a run."""
        return []

    def without_effect(self) -> dict[str, str]:
        """Options that change nothing as things are, and why: "method.xi", or "train.…" where it decides that."""
        return {}

    def make(self, losses: Any) -> Any:
        """The `Method`, which minimises these `Losses`. Raises ConfigError for ones that it cannot."""
        raise NotImplementedError


@dataclass(frozen=True)
class TargetedConfig(MethodConfig):
    """A method that trains towards a forget target."""

    target: str = "rl"
    """ε_f of eq. (2): the model's own prediction under another condition c_m (rl), uniform noise (noise), away from
    what the condition brings about (negative_guidance), towards the nearest remaining samples (neighbours), or what
    eq. (1) is for a picture of noise (surrogate)."""
    anchor: int | str | tuple[int | str, ...] | None = None
    """With rl: this class (its index), the null class too, or this prompt as c_m, '' the null prompt; of several, one
    drawn per sample; none draws c_m per sample among what the remaining samples are told."""
    concept: tuple[str, ...] = ()
    """With rl and prompts: words of which a sample's prompt holds one, and in whose place its c_m has the anchor: with
    'three' and the anchor 'four', 'a red three' becomes 'a red four'; none: the anchor is the whole prompt."""
    teacher: Literal["current", "frozen"] = "current"
    """Whose prediction the rl target is: the model being scrubbed (the paper's) or the original one."""
    negative_guidance: NotNegative = 1.0
    """With the target of this name: how far beyond the original model's prediction without a condition ε_f lies, in
    units of what the condition changes."""
    num_neighbours: AtLeast1 = 10
    """With the target neighbours: of how many remaining samples, the nearest to each forgotten one, ε_f is made."""

    def __post_init__(self) -> None:
        known = plugins.names("objectives.targets")
        if self.target not in known:
            raise ValueError(f"method.target = {self.target!r}: known are {', '.join(known)}")

    @property
    def anchors(self) -> tuple[int | str, ...]:
        """Each of them; empty: c_m is drawn among what the remaining samples are told."""
        if self.anchor is None:
            return ()
        return self.anchor if isinstance(self.anchor, tuple) else (self.anchor,)

    def target_kind(self) -> Any:
        return plugins.load("objectives.targets", self.target).Target

    def check_conditions(self, model: Any, forget: Sequence[Any], remain: Sequence[Any]) -> None:
        self.target_kind().check(self, model, forget, remain)

    @property
    def asks_original(self) -> bool:
        """Whether the target is a prediction of the original model."""
        weights = self.target_kind().weights
        return weights == "original" or (weights == "teacher" and self.teacher == "frozen")

    @property
    def keeps_original(self) -> bool:
        return self.asks_original

    @property
    def cost_of_target(self) -> Cost:
        """Beside the rest of a step; the original model's weights are published and gathered for it, θ_t's are not."""
        num_forwards = self.target_kind().num_forwards
        return Cost(0, num_forwards, publications=self.asks_original, forward_gathers=self.asks_original)

    def without_effect(self) -> dict[str, str]:
        weights: str = self.target_kind().weights
        found: dict[str, str] = {}
        if self.target != "negative_guidance":
            found["method.negative_guidance"] = "method.target is another"
        if self.target != "neighbours":
            found["method.num_neighbours"] = "method.target is another"
        if weights == "teacher":
            return found
        why = f"the {self.target} target asks no model for a prediction"
        if weights == "original":
            found["method.teacher"] = f"the {self.target} target always asks the original model"
            why = f"the {self.target} target asks for no other condition"
        return dict.fromkeys(("method.anchor", "method.concept", "method.teacher"), why) | found


def method_names() -> tuple[str, ...]:
    return plugins.names("methods")


def method_kind(name: object) -> type[MethodConfig]:
    """The class of a method's options; raises ConfigError for a name that no method has."""
    if name not in method_names():
        raise ConfigError(f"method.name = {name!r}; known: {', '.join(method_names())}")
    return cast(type[MethodConfig], plugins.load("methods", str(name)).Config)


def default_method() -> MethodConfig:
    return method_kind(DEFAULT_METHOD)(DEFAULT_METHOD)


def _by_name(value: Any) -> MethodConfig:
    """A section as its method's options."""
    if isinstance(value, MethodConfig):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"method = {value!r}: a section with a name, [method] in a file")
    section = dict(value)
    kind = method_kind(section.get("name", DEFAULT_METHOD))
    # by way of JSON, whose lists become tuples; types as they stand
    return TypeAdapter(kind).validate_json(json.dumps(section), strict=True)


# a section whose `name` says which options there are
AnyMethod = Annotated[MethodConfig, PlainValidator(_by_name)]
