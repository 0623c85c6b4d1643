"""What every model is measured with: samples asked for, real images, the judge, and what they make of one model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..config import JudgeConfig
from ..models.conditions import Condition
from ..models.model import Model
from ..models.sampling import sample
from ..run.progress import StepProgress
from ..run.provenance import DataStamp
from .classifier import Classifier
from .clip_score import ClipScorer
from .detector import Detector
from .earlier import Earlier
from .features import Features
from .images import Asked, Images
from .instruments import Instruments

Made = TypeVar("Made")
# sides of the bench: each has noise of its own
FORGOTTEN, REMAINING, KEPT = 0, 1, 2
EARLIER = 4  # 3 is other noise, see `integrity`


@dataclass(frozen=True)
class Factor:
    """Something else that samples are asked for, and its judge."""

    classifier: Classifier
    of_condition: dict[Condition, int]
    """The class that the judge should see."""
    stamp: DataStamp
    """The data that it was trained on."""


@dataclass(frozen=True)
class Bench:
    """The same for every model."""

    config: JudgeConfig
    data: DataStamp
    """What the judge was trained on, where none was named, and what says how classes are asked for."""
    asked_sha256: str | None
    """`Asking.sha256`."""
    classifier: Classifier
    features: Features
    forget_conditions: dict[int, list[Condition]]
    """What a model is told to make samples that stand for D_f, by the class that the judge should see: D_f's."""
    remain_conditions: dict[int, list[Condition]]
    """The same for D_r."""
    forgets_classes: bool
    """Whether nothing remains of them; else single samples are forgotten."""
    real_remain: Images
    real_forget: Images
    held_out: Images | None
    """Of the forgotten classes, seen by no model."""
    held_out_stamp: DataStamp | None
    """The dataset they are of."""
    phrasings: dict[Condition, str]
    """By what they are grouped, the conditions of the forgotten; empty: by nothing."""
    factor: Factor | None
    clip: ClipScorer | None
    detector: Detector | None
    near_labels: list[int]
    """Of the remaining classes those that are near to the forgotten."""
    kept_conditions: list[Condition]
    """Of samples that must stay as they are and are of no class, one each."""
    earlier: Earlier
    """What earlier requests were to make the model forget."""
    real_earlier: Images | None
    """Single samples of them, of classes that stay; None: there are none, or no held-out samples."""
    earlier_held_out: Images | None
    """Held-out samples of their classes."""
    notes: list[str]
    """Lines to say of what is asked."""
    device: torch.device

    @property
    def forget_labels(self) -> list[int]:
        return [*self.forget_conditions]

    @property
    def remain_labels(self) -> list[int]:
        return [*self.remain_conditions]

    @property
    def far_labels(self) -> list[int]:
        return [label for label in self.remain_labels if label not in self.near_labels]

    @property
    def instruments(self) -> Instruments:
        return Instruments(
            self.features.name,
            clip=None if self.clip is None else self.clip.name,
            detector=None if self.detector is None else self.detector.card.name,
            detector_thresholds=self.config.detector_thresholds,
        )

    @cached_property
    def real_remain_features(self) -> Tensor:
        """[N, D]."""
        return self.features(self.real_remain.images)


@dataclass(frozen=True)
class Samples:
    """What a model generates for the bench."""

    forget: Images
    remain: Images
    kept: Images
    """Labelled -1."""

    def of_side(self, side: int) -> Images:
        return self.sides[side]

    @property
    def sides(self) -> tuple[Images, ...]:
        return self.forget, self.remain, self.kept

    @classmethod
    def of(cls, model: Model, bench: Bench) -> Samples:
        """All ranks call it."""
        asked = _asked(bench)
        num_batches = sum(-(-len(wanted.conditions) // bench.config.sampling.batch_size) for wanted in asked)
        place = "a model" if model.folder is None else str(model.folder)
        progress, done = StepProgress(f"samples of {place}", 0, num_batches, num_lines=4), itertools.count()
        try:
            return cls(
                *(
                    generate(model, bench, wanted, side, on_batch=lambda: progress.update(next(done), {}))
                    for side, wanted in enumerate(asked)
                )
            )
        finally:
            progress.close()

    @classmethod
    def again(cls, bench: Bench, images: list[Tensor]) -> Samples:
        """Those that `of` made on such a bench, by their images alone."""
        sides = zip(images, _asked(bench), itertools.count(), strict=False)
        return cls(*(_images(each, wanted, bench, side) for each, wanted, side in sides))


def _asked(bench: Bench) -> list[Asked]:
    """What each side is asked for."""
    config = bench.config
    sides = (
        (bench.forget_conditions, config.num_forget_samples_per_class),
        (bench.remain_conditions, config.num_remain_samples_per_class),
    )
    asked = [Asked.in_turn(conditions, count * len(conditions)) for conditions, count in sides]
    return [*asked, Asked(bench.kept_conditions, [-1] * len(bench.kept_conditions))]


def generate(
    model: Model, bench: Bench, wanted: Asked, side: int, *, on_batch: Callable[[], None] | None = None
) -> Images:
    """The model's images for one side. All ranks call it."""
    sampling = dataclasses.replace(bench.config.sampling, seed=bench.config.sampling.seed + side)
    images = sample(model, wanted.conditions, sampling, device=bench.device, on_batch=on_batch)
    return _images(images, wanted, bench, side)


def _images(images: Tensor, wanted: Asked, bench: Bench, side: int) -> Images:
    return Images(images, torch.tensor(wanted.labels), wanted.conditions, bench.config.sampling.seed + side)


class Measured:
    """One model on the bench: what its metrics are computed from, each made once, when it is first asked for."""

    def __init__(self, model: Model, bench: Bench, original: Samples | None):
        """original: the unscrubbed model's samples; None: this is that model. All ranks make it."""
        self.model = model
        self.bench = bench
        self.original = original
        self.seed = bench.config.sampling.seed
        self.samples = Samples.of(model, bench)
        self.forget = self.samples.forget.where(self.samples.forget.is_finite)
        self.remain = self.samples.remain.where(self.samples.remain.is_finite)
        self.kept = self.samples.kept.where(self.samples.kept.is_finite)
        self.num_samples = sum(map(len, self.samples.sides))
        self._made: dict[Any, Any] = {}
        self.num_non_finite = self.num_samples - len(self.forget) - len(self.remain) - len(self.kept)

    def once(self, make: Callable[[Measured], Made]) -> Made:
        """What `make` makes of this model, made once: several metrics come from it."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    @cached_property
    def forget_probabilities(self) -> Tensor:
        """[N, classes], of the finite samples."""
        return self.bench.classifier.probabilities(self.forget.images)

    @cached_property
    def earlier(self) -> Images:
        """Samples asked to be of the classes of earlier requests, the finite ones. All ranks ask for them."""
        wanted, per_class = self.bench.earlier.conditions, self.bench.config.num_forget_samples_per_class
        images = generate(self.model, self.bench, Asked.in_turn(wanted, per_class * len(wanted)), EARLIER)
        return images.where(images.is_finite)

    @cached_property
    def remain_features(self) -> Tensor:
        """[N, D], of the finite samples."""
        return self.bench.features(self.remain.images)
