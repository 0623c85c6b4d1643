"""rl: ε_f = stop_gradient ε_θ(x_t | c_m), the model's own prediction under another condition than the sample's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from ...config import OptimizerConfig, TargetedConfig, TrainConfig
from ...errors import ConfigError
from ...models.conditions import told_alike
from . import Noised, Predict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...models.conditions import Condition, Conditions
    from ...models.model import Model, Told


@dataclass(frozen=True)
class Teacher:
    """c_m of each sample, and the same for the model."""

    conditions: Sequence[Condition]
    told: Told


class Target:
    num_forwards: ClassVar[int] = 1
    weights: ClassVar[Literal["teacher"]] = "teacher"
    eta: ClassVar[float] = 0.5

    @staticmethod
    def default_sections() -> dict[str, TrainConfig | OptimizerConfig]:
        return {"train": TrainConfig(), "optimizer": OptimizerConfig()}

    def __init__(self, config: TargetedConfig, others: Sequence[Condition], conditions: Conditions):
        self._anchored = _Anchored(config, conditions)
        self._others = others
        self._places: dict[Condition, list[int]] = {}
        for i, condition in enumerate(others):
            self._places.setdefault(told_alike(condition), []).append(i)

    @staticmethod
    def check(config: TargetedConfig, model: Model, forget: Sequence[Condition], remain: Sequence[Condition]) -> None:
        if model.conditions.is_unconditional:
            raise ConfigError(
                "method.target = 'rl' compares predictions under two classes, and this model is unconditional: "
                "use method.target = 'noise'"
            )
        if not config.anchors:
            if config.concept:
                raise ConfigError("method.concept names words to be replaced: say by what in method.anchor")
            others = {told_alike(condition) for condition in remain}
            if any(others <= {told_alike(condition)} for condition in forget):
                raise ConfigError(
                    "method.target = 'rl' needs another class in the remain set to relabel to: "
                    "set method.anchor, or use method.target = 'noise'"
                )
            return
        if config.concept and model.num_classes:
            raise ConfigError("method.concept is for models that are told prompts: leave it out")
        for anchor in config.anchors if config.concept else ():
            if anchor == "":
                raise ConfigError(
                    "method.anchor = '' is the null prompt, and method.concept has an anchor take a word's place in "
                    "each prompt: leave method.concept out"
                )
            if holds_one_of(config.concept, str(anchor)):
                raise ConfigError(f"method.anchor = {anchor!r} holds what it takes the place of: choose another")
        anchored, kind = _Anchored(config, model.conditions), model.conditions.kind
        told = {told_alike(condition) for condition in forget}
        for condition in forget:
            for anchor in anchored.of(condition):
                made = f" makes of {condition!r} {anchor!r}, which" if config.concept else ""
                called = f"method.anchor = {config.anchor!r}{made}"
                if any(one.is_gone(anchor) for one in model.lineage.forgotten):
                    raise ConfigError(f"{called} is {kind} that the model has forgotten: choose another")
                if told_alike(anchor) in told:
                    raise ConfigError(f"{called} is {kind} that is to be forgotten: choose another")

    def draw(self, condition: Condition, shape: tuple[int, ...], generator: np.random.Generator) -> Condition:
        """c_m: an anchor, or uniform among those of D_r without c."""
        anchors = self._anchored.of(condition)
        if anchors:
            return anchors[int(generator.integers(len(anchors)))] if len(anchors) > 1 else anchors[0]
        own = self._places.get(told_alike(condition), [])
        number = int(generator.integers(len(self._others) - len(own)))
        for place in own:  # ascending: past each that is left out
            number += number >= place
        return self._others[number]

    def prepare(self, drawn: Sequence[Condition], batch: Noised, model: Model, device: torch.device) -> Teacher:
        return Teacher(drawn, model.told(drawn, device))

    def compute(self, prepared: Teacher, batch: Noised, predict: Predict) -> Tensor:
        return predict(batch.x_t, batch.timesteps, prepared.told)


class _Anchored:
    """The conditions that `anchor` and `concept` make of a sample's own."""

    def __init__(self, config: TargetedConfig, conditions: Conditions):
        self._conditions = conditions
        self._anchors = config.anchors
        self._words = config.concept
        self._known: dict[Condition, list[Condition]] = {}

    def of(self, condition: Condition) -> list[Condition]:
        """c_m to choose from, empty without an anchor. Raises ConfigError for what the model cannot be told."""
        if condition not in self._known:
            self._known[condition] = [self._conditions.parse(one, "method.anchor") for one in self._given(condition)]
        return self._known[condition]

    def _given(self, condition: Condition) -> list[int | str]:
        if not self._words:
            return [*self._anchors]
        prompt = str(condition)
        if not holds_one_of(self._words, prompt):
            raise ConfigError(
                f"method.concept: the prompt {prompt!r} of a sample to be forgotten holds none of its words: name the "
                "word that stands for the concept there, too"
            )
        return [in_place_of(self._words, prompt, str(anchor)) for anchor in self._anchors]


def in_place_of(words: Sequence[str], prompt: str, anchor: str) -> str:
    """The prompt with the anchor wherever one of the words stands by itself."""
    return _any_of(words).sub(lambda _: anchor, prompt)


def holds_one_of(words: Sequence[str], prompt: str) -> bool:
    """Whether one of the words stands in the prompt by itself."""
    return _any_of(words).search(prompt) is not None


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    # the longest first: "steam train" before "train"; text encoders read upper and lower case alike
    either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)
