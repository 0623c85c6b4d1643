"""Settings that change nothing as things are: each is said in one line, in the dry run and at the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..config import (
    EngineConfig,
    JudgeConfig,
    MethodConfig,
    OptimizerConfig,
    PretrainConfig,
    SamplingConfig,
    ScrubConfig,
    TrainConfig,
)
from ..ranks import collectives


@dataclass(frozen=True)
class Situation:
    """What decides whether a setting has an effect."""

    method: MethodConfig
    train: TrainConfig
    optimizer: OptimizerConfig
    engine: EngineConfig
    on_cuda: bool

    @property
    def target(self) -> str | None:
        """None for a method that has no forget loss."""
        return getattr(self.method, "target", None)

    def value(self, key: str) -> Any:
        """Of "section.name"; None where the method has no such setting."""
        section, name = key.split(".")
        return getattr(getattr(self, section), name, None)

    def default(self, key: str) -> Any:
        section, name = key.split(".")
        return getattr(type(getattr(self, section))(), name, None)


_NOISE_HAS_NO_TEACHER = "the noise target asks no model for a prediction"

# (setting, when it changes nothing, why)
_WITHOUT_EFFECT: list[tuple[str, Callable[[Situation], bool], str]] = [
    ("method.anchor", lambda now: now.target == "noise", _NOISE_HAS_NO_TEACHER),
    ("method.teacher", lambda now: now.target == "noise", _NOISE_HAS_NO_TEACHER),
    ("method.inner_every", lambda now: getattr(now.method, "needs_inner_loop", False), "φ^K is computed on every step"),
    ("method.xi", lambda now: now.value("method.num_inner_steps") == 0, "there is no inner step"),
    ("train.forget_label_drop", lambda now: now.target is None, "the method reads no forget sample"),
    ("train.descent_every", lambda now: now.target is None, "the method has no g to descend on"),
    ("optimizer.momentum", lambda now: now.optimizer.name != "sgd", "it is sgd's"),
    ("optimizer.betas", lambda now: now.optimizer.name == "sgd", "they are Adam's"),
    ("optimizer.eps", lambda now: now.optimizer.name == "sgd", "it is Adam's"),
    ("engine.reduce_dtype", lambda now: now.engine.precision != "bf16", "only bf16 gradients can be summed in bf16"),
    ("engine.deterministic", lambda now: not now.on_cuda, "on a CPU every run is"),
    ("engine.num_threads", lambda now: now.on_cuda, "it is for runs on a CPU"),
]


def situation(method: MethodConfig, config: ScrubConfig | PretrainConfig) -> Situation:
    """Of a run by this method."""
    return Situation(method, config.train, config.optimizer, config.engine, collectives.is_on_cuda(config.engine))


def effect_notes(now: Situation) -> list[str]:
    """A line for each setting that somebody has set and that changes nothing."""
    return [
        f"no effect   {key} = {now.value(key)}: {why}"
        for key, changes_nothing, why in _WITHOUT_EFFECT
        if now.value(key) is not None and now.value(key) != now.default(key) and changes_nothing(now)
    ]


def judge_effect_notes(judge: JudgeConfig, *, forgets_classes: bool, null_class: int | None) -> list[str]:
    """The same of an evaluation's settings."""
    scale, found = judge.sampling.guidance_scale, []
    if judge.relearn and not forgets_classes:
        found.append("no effect   judge.relearn = True: it measures a class, and single samples are forgotten")
    if null_class is None and scale != SamplingConfig().guidance_scale:
        found.append(f"no effect   judge.sampling.guidance_scale = {scale}: the model has no null class")
    return found
