"""A bench for a finished scrub: the classifier, and the images of each side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from ...shards.dataset import Dataset
from ..config import EvaluateConfig, JudgeConfig, ScrubConfig
from ..errors import ConfigError
from ..models.class_names import labels_of
from ..models.conditions import Condition
from ..models.fitting import fit
from ..models.model import Model
from ..ranks import collectives
from ..run.provenance import DataStamp
from .asking import Asking, fit_factor
from .bench import Bench, Factor
from .classifier import Classifier, load_for, train_classifier
from .clip_score import load_clip
from .detector import load_detector
from .earlier import Earlier
from .features import make_features
from .held_out import open_held_out
from .images import MAX_REAL_IMAGES, Images
from .options import check_asked, gone_classes


class Sides(Protocol):
    """What a bench is made for: a model before it is scrubbed, and the sets."""

    @property
    def config(self) -> ScrubConfig: ...
    @property
    def unscrubbed(self) -> Model: ...
    @property
    def forget(self) -> Dataset: ...
    @property
    def remain(self) -> Dataset: ...


def make_bench(config: EvaluateConfig, scrub: Sides, device: torch.device) -> Bench:
    """The judge and the real images; raises ConfigError where they do not fit the scrub."""
    options, model = config.judge, scrub.unscrubbed
    data = fit(Dataset.open(config.data), model).data
    if data.classes != scrub.remain.classes:
        raise ConfigError(
            f"data = '{config.data}' has other classes than the run's remain set, '{scrub.config.remain}'"
        )
    forget_labels, remaining = labels_of(scrub.forget), labels_of(scrub.remain)
    gone = gone_classes(forget_labels, remaining, data.classes, scrub.config.forget)
    missing = sorted({*forget_labels, *remaining} - set(labels_of(data)))
    if missing:
        raise ConfigError(
            f"data = '{config.data}' has no sample of class {data.classes[missing[0]]}: the classifier must know all"
        )
    # the judge takes minutes to train: first all that can be known without it
    trained_on = [scrub.forget, scrub.remain]
    earlier = Earlier.beside(model, data, scrub.forget, remaining)
    check_asked(options, model, data, trained_on, len(scrub.remain), forget_labels, remaining, bool(gone), earlier)
    asking = Asking.of(options, model, data, forget_labels, remaining)
    classifier = _classifier(options, data, model, device)

    def images(dataset: Dataset, labels: Sequence[int] | None = None) -> Images:
        return Images.of_data(dataset, model, MAX_REAL_IMAGES, labels)

    held_out = stamp = real_earlier = earlier_held_out = None
    if options.held_out is not None:
        kept_apart = open_held_out(options.held_out, model, trained_on, forget_labels)
        stamp = DataStamp.of(kept_apart)
        # the loss depends on the class: only samples of the same classes compare
        held_out = images(kept_apart, forget_labels)
        if earlier.samples is not None:
            real_earlier, earlier_held_out = images(earlier.samples), images(kept_apart, labels_of(earlier.samples))
    forgotten = gone or forget_labels
    return Bench(
        config=options,
        data=DataStamp.of(data),
        asked_sha256=asking.sha256,
        classifier=classifier,
        features=make_features(options.features, classifier),
        forget_conditions={label: asking.conditions[label] for label in forgotten},
        remain_conditions={label: asking.conditions[label] for label in remaining},
        forgets_classes=bool(gone),
        real_remain=images(scrub.remain),
        real_forget=images(scrub.forget),
        held_out=held_out,
        held_out_stamp=stamp,
        phrasings=asking.phrasings_of(forgotten),
        factor=None if options.factor is None else _factor(options, model, asking, device),
        clip=None if options.clip is None else load_clip(options.clip),
        kept_conditions=_in_turn(asking.kept, options.num_kept_samples),
        earlier=earlier,
        real_earlier=real_earlier,
        earlier_held_out=earlier_held_out,
        notes=[*asking.notes, *earlier.notes(has_held_out=held_out is not None)],
        detector=None if options.detector is None else load_detector(options.detector),
        near_labels=[data.classes.index(name) for name in options.near],
        device=device,
    )


def _in_turn(conditions: Sequence[Condition], num: int | None) -> list[Condition]:
    return [conditions[i % len(conditions)] for i in range(num or len(conditions))] if conditions else []


def _factor(options: JudgeConfig, model: Model, asking: Asking, device: torch.device) -> Factor:
    data = fit_factor(options, model)
    if options.factor_classifier is None:
        judge = trained_classifier(options, data, model, device)
    else:
        judge = load_for(options.factor_classifier, data, model, "judge.factor_classifier")
    places = {name: label for label, name in enumerate(data.classes)}
    labels = {condition: places[name] for condition, name in asking.factors.items()}
    return Factor(judge.to(device), labels, DataStamp.of(data))


def _classifier(options: JudgeConfig, data: Dataset, model: Model, device: torch.device) -> Classifier:
    named = options.classifier
    judge = trained_classifier(options, data, model, device) if named is None else load_for(named, data, model)
    return judge.to(device)


def trained_classifier(options: JudgeConfig, data: Dataset, model: Model, device: torch.device) -> Classifier:
    """Rank 0's, on all ranks. On CUDA no other trains a ResNet; what is trained on a CPU may take hours, and all do:
    none waits.
    """

    def train() -> Classifier:
        sizes = {"image_size": model.image_size, "channels": model.channels}
        return train_classifier(data, **sizes, resnet=options.trained_resnet, device=device)

    if device.type == "cuda" and options.trained_resnet is not None:
        return collectives.on_main(train)
    trained = train()
    return collectives.on_main(lambda: trained)
