"""Settings, model and data held against each other, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..shards.dataset import Dataset
from .config import EngineConfig, EraseDiffConfig, MethodConfig, MOOConfig, OptimizerConfig, TrainConfig
from .errors import ConfigError
from .models import DiffusionModel


def labels_of(dataset: Dataset) -> list[int]:
    """The labels its samples have, ascending."""
    return [int(label) for label in np.unique(dataset.labels) if label >= 0]


def check_labels(
    model: DiffusionModel, config: MethodConfig, forget_labels: Sequence[int], remain_labels: Sequence[int]
) -> None:
    """Raises ConfigError where the model, the method and the labels of D_f and D_r do not fit together."""
    forgetting = config if isinstance(config, EraseDiffConfig | MOOConfig) else None
    labels = sorted({*forget_labels, *remain_labels})
    if not model.num_classes:
        if forgetting is not None and forgetting.target == "rl":
            raise ConfigError(
                "method.target = 'rl' compares predictions under two classes, and this model is unconditional: "
                "use method.target = 'noise'"
            )
        return
    if labels and labels[-1] >= model.num_classes:
        raise ConfigError(
            f"the data has label {labels[-1]}, but the model knows {model.num_classes} classes (0 to "
            f"{model.num_classes - 1}): use data labelled as the model was trained"
        )
    if model.null_class is not None and model.null_class in labels:
        raise ConfigError(
            f"model.null_class = {model.null_class} is the label of samples in the data: the null class has none"
        )
    if forgetting is None or forgetting.target != "rl":
        return
    if forgetting.anchor is None:
        if not set(remain_labels) - set(forget_labels) and len(set(remain_labels)) < 2:
            raise ConfigError(
                "method.target = 'rl' needs another class in the remain set to relabel to: "
                "set method.anchor, or use method.target = 'noise'"
            )
    elif not 0 <= forgetting.anchor < model.num_classes:
        raise ConfigError(
            f"method.anchor = {forgetting.anchor} is no class of the model (0 to {model.num_classes - 1})"
        )
    elif forgetting.anchor in forget_labels:
        raise ConfigError(f"method.anchor = {forgetting.anchor} is a class that is to be forgotten: choose another")


def check_all_labelled(model: DiffusionModel, dataset: Dataset) -> None:
    """Raises ConfigError for samples without a label where the model must be told one."""
    without = np.flatnonzero(dataset.labels < 0)
    if model.num_classes and len(without):
        raise ConfigError(
            f"{dataset.path}: {len(without):,} samples have no label, {dataset.key(int(without[0]))} for one, and the "
            "model is class-conditional: build the dataset with labels"
        )


def check_method(method: MethodConfig) -> None:
    """Raises ConfigError for a number that is out of range."""
    least = {"eta": 0, "lambda_cap": 0, "num_inner_steps": 0, "inner_every": 0, "xi": 0, "weight": 0}
    for name, bound in least.items():
        value = getattr(method, name, None)
        if value is not None and not bound <= value < math.inf:
            raise ConfigError(f"method.{name} = {value}: at least {bound}, and finite")


def check_train(train: TrainConfig, model: DiffusionModel) -> None:
    """Raises ConfigError for a batch or schedule that cannot be, and for label drop without a null class."""
    for name in ("max_train_steps", "train_batch_size"):
        if getattr(train, name) < 1:
            raise ConfigError(f"train.{name} = {getattr(train, name)}: at least 1")
    for name in ("seed", "checkpointing_steps", "descent_every"):
        if getattr(train, name) < 0:
            raise ConfigError(f"train.{name} = {getattr(train, name)}: at least 0")
    for name in ("label_drop", "forget_label_drop"):
        drop = getattr(train, name) or 0.0
        if not 0 <= drop <= 1:
            raise ConfigError(f"train.{name} = {drop}: a probability, 0 to 1")
        if drop and model.null_class is None:
            raise ConfigError(f"train.{name} = {drop} needs a null class to drop to: set model.null_class")


def check_optimizer(optimizer: OptimizerConfig, train: TrainConfig) -> None:
    """Raises ConfigError for an average that would still mostly hold the old weights at the end."""
    if not optimizer.learning_rate > 0:
        raise ConfigError(f"optimizer.learning_rate = {optimizer.learning_rate}: more than 0")
    if optimizer.ema_decay is None:
        return
    if not 0 < optimizer.ema_decay < 1:
        raise ConfigError(f"optimizer.ema_decay = {optimizer.ema_decay}: between 0 and 1")
    left = optimizer.ema_decay**train.max_train_steps
    if left > 0.05:
        raise ConfigError(
            f"optimizer.ema_decay = {optimizer.ema_decay} keeps {left:.0%} of the old weights after "
            f"train.max_train_steps = {train.max_train_steps}: lower the decay, train longer, or leave it out"
        )


def check_precision(engine: EngineConfig, method: MethodConfig) -> None:
    """Raises ConfigError where bf16 weights would swallow the inner steps."""
    if engine.precision == "bf16" and isinstance(method, EraseDiffConfig) and method.needs_inner_loop:
        raise ConfigError(
            f"engine.precision = 'bf16' rounds the inner steps away, which method.gradient_of_g = "
            f"{method.gradient_of_g!r} with method.barrier = {method.barrier!r} look at: use 'bf16-autocast' or 'fp32'"
        )
