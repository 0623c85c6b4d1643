"""Settings, model and data held against each other, before anything is written."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from ...kernels.exercise import exercise
from ...kernels.start import KernelError, start
from ..config import MAX_OLD_WEIGHTS, EngineConfig, MethodConfig, OptimizerConfig, TrainConfig
from ..engine.attention import check_attention
from ..engine.recomputing import can_recompute
from ..engine.switches import check_switches
from ..errors import ConfigError
from ..files import alone
from ..models.conditions import Condition
from ..models.layers import chosen
from ..models.model import Model
from ..objectives.objective import objective_of
from .reporting import check_services


def check_conditions(
    model: Model, method: MethodConfig, forget: Sequence[Condition], remain: Sequence[Condition]
) -> None:
    """Raises ConfigError where the model, the method and what the samples of D_f and D_r are told do not fit."""
    if model.null_class is not None and model.null_class in {*forget, *remain}:
        raise ConfigError(
            f"model.null_class = {model.null_class} is the label of samples in the data: the null class has none"
        )
    if method.needs_forget and not method.uses_own_targets and method.target_kind() is None:
        raise ConfigError(
            f"method.name = {method.name!r} reads forget samples and says no target for them: it is refused"
        )
    missing = [name for name in method.asks_objective_for if not hasattr(objective_of(model).Objective, name)]
    if missing:
        raise ConfigError(
            f"method.name = {method.name!r} asks the model's objective, {model.objective!r}, for {', '.join(missing)}, "
            "which it does not have: use another method"
        )
    method.check_conditions(model, forget, remain)


def check_train(train: TrainConfig, model: Model) -> None:
    """Raises ConfigError for layers that the model does not have, label drop without anything to drop to, and services
    whose package is missing.
    """
    chosen(model.module, train.layers, "train.layers")
    check_services(train.report_to)
    for name in ("label_drop", "forget_label_drop"):
        drop = getattr(train, name)
        if drop and not model.conditions.has_null:
            raise ConfigError(f"train.{name} = {drop} needs a null class to drop to: set model.null_class")


def check_optimizer(optimizer: OptimizerConfig, train: TrainConfig) -> None:
    """Raises ConfigError for an average that would still mostly hold the old weights at the end."""
    if optimizer.lr_warmup_steps >= train.max_train_steps:
        raise ConfigError(
            f"optimizer.lr_warmup_steps = {optimizer.lr_warmup_steps}: less than train.max_train_steps = "
            f"{train.max_train_steps}"
        )
    if optimizer.lr_warmup_steps and optimizer.lr_scheduler == "constant":
        raise ConfigError(
            "optimizer.lr_scheduler = 'constant' has no warm-up, and optimizer.lr_warmup_steps = "
            f"{optimizer.lr_warmup_steps}: use 'constant_with_warmup'"
        )
    if optimizer.ema_decay is None or optimizer.ema_decay == "auto":
        return
    if not 0 < optimizer.ema_decay < 1:
        raise ConfigError(f"optimizer.ema_decay = {optimizer.ema_decay}: between 0 and 1")
    left = optimizer.ema_decay**train.max_train_steps
    if left > MAX_OLD_WEIGHTS and not math.isclose(left, MAX_OLD_WEIGHTS):
        raise ConfigError(
            f"optimizer.ema_decay = {optimizer.ema_decay} keeps {left:.0%} of the old weights after "
            f"train.max_train_steps = {train.max_train_steps}: lower the decay, train longer, or set it to 'none'"
        )


def check_engine(engine: EngineConfig, train: TrainConfig, model: Model) -> None:
    """Raises ConfigError for buckets that overlapping would outrun, and for what the module cannot do."""
    check_attention(model.module, engine.attention)
    if engine.precision == "tf32" and model.frozen_parts and train.dataloader_num_workers:
        raise ConfigError(
            "engine.precision = 'tf32' is a switch of the whole process, and workers encode beside the step: set "
            "train.dataloader_num_workers = 0, or use engine.precision = 'bf16-autocast'"
        )
    check_switches(model.module, engine)
    if engine.activation_checkpointing != "off" and not can_recompute(model.module):
        raise ConfigError(
            f"engine.activation_checkpointing = {engine.activation_checkpointing!r}: a {type(model.module).__name__} "
            "cannot make its activations again: set it to 'off'"
        )
    if engine.zero_stage != 3 or not engine.overlap_communication:
        return
    trained = chosen(model.module, train.layers, "train.layers")
    name, numel = max(((name, value.numel()) for name, value in trained.items()), key=lambda item: item[1])
    # DeepSpeed reduces what no bucket holds where it lies, and frees it while another stream still reads it
    if numel > engine.reduce_bucket_size:
        raise ConfigError(
            f"engine.overlap_communication needs buckets that hold every parameter: {name} has {numel:,} elements, and "
            f"engine.reduce_bucket_size = {engine.reduce_bucket_size:,}: set it to {numel} or more"
        )


def check_kernels(device: torch.device) -> None:
    """Raises ConfigError where the gradient kernels cannot start on a CUDA device. Nothing to check on a CPU.

    A node's ranks start them all, one rank after the other: what the first builds, Triton's driver and the kernels, the
    others find in the cache.
    """
    if device.type != "cuda":
        return
    try:
        with alone(Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")):
            start(lambda: exercise(device))
    except KernelError as error:
        raise ConfigError(str(error)) from None
