"""An evaluation's settings held against the model and the data, before anything is computed."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...shards.dataset import Dataset
from ...shards.errors import shorten
from ..config import JudgeConfig
from ..config.thresholds import Threshold, parse_threshold
from ..errors import ConfigError
from ..models.class_names import labels_of
from ..models.model import Model
from ..models.sampling import check_sampling
from .asking import Asking
from .classifier import features_of, load_for
from .clip_score import load_clip
from .detector import load_detector
from .earlier import Earlier
from .evaluation import metric_names
from .features import network_features
from .held_out import open_held_out
from .images import MAX_REAL_IMAGES, Asked
from .instruments import Instruments
from .intervals import for_each_of, samples_to_show
from .metrics import min_frechet_samples
from .retrained import check_retrainable
from .thresholds import check_thresholds, default_thresholds


def check_judge(
    options: JudgeConfig,
    model: Model,
    data: Dataset,
    chosen: np.ndarray,
    remaining: np.ndarray,
    request: str,
) -> None:
    """What can be said of an evaluation before there is anything to evaluate; raises ConfigError.

    chosen: bool [N], the samples of `data` that are to be forgotten, as the file `request` says. remaining: bool [N],
    D_r, neither these nor what the model has forgotten before.
    """
    check_device(options)
    check_options(options, model)
    forget_labels = labels_of(data, chosen)
    still_there = labels_of(data, remaining)
    gone = gone_classes(forget_labels, still_there, data.classes, request)
    earlier = Earlier.of(model, data, chosen, still_there)
    num_remain = int(remaining.sum())
    check_asked(options, model, data, [data], num_remain, forget_labels, still_there, bool(gone), earlier)


def check_asked(
    options: JudgeConfig,
    model: Model,
    data: Dataset,
    trained_on: Sequence[Dataset],
    num_remain: int,
    forget_labels: list[int],
    remaining: list[int],
    forgets_classes: bool,
    earlier: Earlier,
) -> list[Threshold]:
    """What the model will be held to. num_remain: samples of D_r; remaining: their classes.

    Raises ConfigError for a judge, features, held-out samples or thresholds that cannot be; trains nothing.
    """
    unlabelled = np.flatnonzero(data.labels < 0)
    if len(unlabelled):
        found = f"{len(unlabelled):,} samples without a label, {data.key(int(unlabelled[0]))} for one"
        raise ConfigError(f"'{data.path}' has {found}: the classifier judges by classes, build the dataset with labels")
    if not remaining:
        raise ConfigError(f"'{data.path}': no class remains, so nothing would say whether the rest is kept")
    features, num_features = features_of(options, data)
    if options.classifier is not None:
        judge = load_for(options.classifier, data, model)
        features, num_features = judge.card.name, judge.network.num_features
    if options.features != "classifier":
        network = network_features(options.features)
        features, num_features = network.name, network.num_features
    if options.held_out is not None:
        open_held_out(options.held_out, model, trained_on, forget_labels)
    asking = Asking.of(options, model, data, forget_labels, remaining)
    if forgets_classes:
        _check_room(options, model, asking, forget_labels)
    instruments = instruments_of(options, features)
    names = metric_names(options, instruments, forgets_classes, earlier, has_phrasings=bool(asking.phrasings))
    thresholds = thresholds_of(options, names, forgets_classes)
    _check_distance(options, thresholds, len(remaining), num_remain, min_frechet_samples(num_features))
    _check_phrasings(options, thresholds, asking, forget_labels)
    _check_near(options, [data.classes[label] for label in remaining])
    if options.with_retrained:
        check_retrainable(model, trained_on[-1])
    return thresholds


def _check_room(options: JudgeConfig, model: Any, asking: Asking, forget_labels: list[int]) -> None:
    """Raises ConfigError where an attack's tokens leave no room for a prompt that they come before."""
    config = options.attacking
    before = {"inversion": [""], "prompt": []}
    for label in forget_labels:
        before["prompt"] += [str(prompt) for prompt in asking.conditions[label][: config.num_prompts]]
    for attack in options.attacks:
        try:
            for prompt in before[attack]:
                model.check_room(prompt, config.num_tokens)
        except ConfigError as error:
            raise ConfigError(
                f"judge.attacking.num_tokens = {config.num_tokens}: {error}; lower it, or leave {attack!r} out of "
                "judge.attacks"
            ) from None


def instruments_of(options: JudgeConfig, features: str) -> Instruments:
    """Those of an evaluation on these features; raises ConfigError for one that is not there."""
    return Instruments(
        features,
        clip=None if options.clip is None else load_clip(options.clip).name,
        detector=None if options.detector is None else _detector(options, options.detector),
        detector_thresholds=options.detector_thresholds,
    )


def _detector(options: JudgeConfig, name: str) -> str:
    card, thresholds = load_detector(name).card, options.detector_thresholds
    if not thresholds or len(set(thresholds)) < len(thresholds):
        raise ConfigError(f"judge.detector_thresholds = {[*thresholds]}: give each once, and one at least")
    if min(thresholds) < card.min_score:
        raise ConfigError(
            f"judge.detector_thresholds has {min(thresholds):g}: {name} tells of no box below {card.min_score:g}"
        )
    return card.name


def _check_distance(
    options: JudgeConfig, thresholds: Sequence[Threshold], num_classes: int, num_remain: int, needed: int
) -> None:
    """Raises ConfigError where a Fréchet distance would have too few samples on either side."""
    text = next((one.text for one in thresholds if one.metric.startswith("frechet_distance")), None)
    if text is None:
        return
    num_samples, num_real = num_classes * options.num_remain_samples_per_class, min(num_remain, MAX_REAL_IMAGES)
    if num_samples < needed:
        raise ConfigError(
            f"judge.thresholds: {text!r} needs {needed:,} samples, and judge.num_remain_samples_per_class = "
            f"{options.num_remain_samples_per_class} of {num_classes} classes makes {num_samples:,}: raise it, or "
            "give thresholds without that one"
        )
    if num_real < needed:
        raise ConfigError(
            f"judge.thresholds: {text!r} needs {needed:,} real images that remain, and {num_real:,} of {num_remain:,} "
            f"are compared with (at most {MAX_REAL_IMAGES:,}): name a network of fewer features in judge.features, or "
            "give thresholds without that one"
        )


def _check_phrasings(
    options: JudgeConfig, thresholds: Sequence[Threshold], asking: Asking, forget_labels: list[int]
) -> None:
    """Raises ConfigError where a phrasing has so few samples that no figure would be shown to be within its limit."""
    limits = [one for one in thresholds if one.metric == "p_psi_worst_phrasing" and one.offset > 0 and one.at_most]
    phrasings = asking.phrasings_of(forget_labels)
    if not limits or not phrasings:
        return
    conditions = {label: asking.conditions[label] for label in forget_labels}
    none = dict.fromkeys(phrasings.values(), 0)

    def fewest(per_class: int) -> int:
        """How often the phrasing is asked that is asked least."""
        asked = Asked.in_turn(conditions, per_class * len(conditions)).conditions
        return min((none | Counter(phrasings[one] for one in asked if one in phrasings)).values())

    tightest = min(limits, key=lambda limit: limit.offset)
    needed = samples_to_show(tightest.offset, for_each_of(len(none)))
    per_class = options.num_forget_samples_per_class
    if fewest(per_class) < needed:
        most = needed * max(map(len, conditions.values()))
        enough = bisect_left(range(most), needed, key=fewest)
        raise ConfigError(
            f"judge.thresholds: {tightest.text!r} needs {needed} samples of each phrasing to be shown, and "
            f"judge.num_forget_samples_per_class = {per_class} asks one of them {fewest(per_class)} times: set it to "
            f"{enough}, or give thresholds without that one"
        )


def _check_near(options: JudgeConfig, remaining: list[str]) -> None:
    other = next((name for name in options.near if name not in remaining), None)
    if other is not None:
        raise ConfigError(f"judge.near: {other!r} is no class that remains: those are {shorten(remaining)}")
    if options.near and not set(remaining) - set(options.near):
        raise ConfigError("judge.near names every class that remains, and none is far: leave some out")


def check_device(options: JudgeConfig) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("judge.device = 'cuda', but torch sees no CUDA device: use judge.device = 'cpu'")


def check_options(options: JudgeConfig, model: Model) -> None:
    """Raises ConfigError for numbers out of range, and for a model that knows no classes."""
    if not model.conditions.asks_for_classes:
        raise ConfigError("the evaluation asks for samples by class, and the model is unconditional")
    check_sampling(options.sampling, model, "judge.sampling")
    if options.clip is not None and model.num_classes:
        raise ConfigError(
            f"judge.clip = '{options.clip}' compares samples with prompts, and the model is told classes: leave it out"
        )
    if options.attacks and not getattr(model, "takes_vectors", False):
        raise ConfigError(
            f"judge.attacks = {[*options.attacks]} train embeddings of words, for Stable Diffusion 1.x and 2.x alone: "
            f"leave them out for a {type(model).__name__}"
        )
    if options.with_retrained and options.retrained is not None:
        raise ConfigError("judge.with_retrained trains the model that judge.retrained names: give one of them")


def thresholds_of(options: JudgeConfig, metrics: Sequence[str], forgets_classes: bool) -> list[Threshold]:
    """Those asked for, or the default ones; raises ConfigError where there is nothing to hold them against."""
    with_retrained = options.with_retrained or options.retrained is not None
    texts = options.thresholds or default_thresholds(metrics, forgets_classes, with_retrained)
    thresholds = [parse_threshold(text) for text in texts]
    check_thresholds(thresholds, metrics, with_retrained)
    return thresholds


def gone_classes(forget_labels: list[int], remaining: list[int], classes: Sequence[str], where: str) -> list[int]:
    """The classes of which nothing remains; ConfigError where others are forgotten in part."""
    gone = [label for label in forget_labels if label not in remaining]
    if gone and len(gone) < len(forget_labels):
        kept = next(label for label in forget_labels if label in remaining)
        raise ConfigError(
            f"'{where}' holds all of class {classes[gone[0]]} and a part of class {classes[kept]}: "
            "erase whole classes and single samples in two requests"
        )
    return gone
