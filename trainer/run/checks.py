"""Settings, model and data held against each other, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ...kernels.displace import displace
from ...kernels.start import KernelError, start
from ..config import (
    MAX_OLD_WEIGHTS,
    EngineConfig,
    EraseDiffConfig,
    MethodConfig,
    MOOConfig,
    OptimizerConfig,
    TrainConfig,
)
from ..errors import ConfigError
from ..models.unet2d import DiffusionModel


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
    if model.null_class is not None and model.null_class in labels:
        raise ConfigError(
            f"model.null_class = {model.null_class} is the label of samples in the data: the null class has none"
        )
    if forgetting is None or forgetting.target != "rl":
        return
    gone_before = {label for one in model.lineage.forgotten for label in one.classes.values()}
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
    elif forgetting.anchor in gone_before:
        raise ConfigError(
            f"method.anchor = {forgetting.anchor} is a class that the model has forgotten: choose another"
        )
    elif forgetting.anchor in forget_labels:
        raise ConfigError(f"method.anchor = {forgetting.anchor} is a class that is to be forgotten: choose another")


def check_method(method: MethodConfig) -> None:
    """Raises ConfigError for a number that is out of range."""
    least = {"eta": 0, "lambda_cap": 0, "num_inner_steps": 0, "inner_every": 0, "xi": 0, "weight": 0}
    for name, bound in least.items():
        value = getattr(method, name, None)
        if value is not None and not bound <= value < math.inf:
            raise ConfigError(f"method.{name} = {value}: at least {bound}, and finite")


def check_train(train: TrainConfig, model: DiffusionModel) -> None:
    """Raises ConfigError for a batch or schedule that cannot be, and for label drop without a null class."""
    for name in ("max_train_steps", "train_batch_size", "checkpoints_total_limit"):
        if getattr(train, name) < 1:
            raise ConfigError(f"train.{name} = {getattr(train, name)}: at least 1")
    if train.seed >= 1 << 63:
        raise ConfigError(f"train.seed = {train.seed}: less than 2^63")
    for name in ("seed", "max_bad_samples", "dataloader_num_workers", "checkpointing_steps", "descent_every"):
        if getattr(train, name) < 0:
            raise ConfigError(f"train.{name} = {getattr(train, name)}: at least 0")
    if train.max_loss_r_ratio is not None and not 1 < train.max_loss_r_ratio < math.inf:
        raise ConfigError(f"train.max_loss_r_ratio = {train.max_loss_r_ratio}: more than 1, and finite, or 'none'")
    for name in ("label_drop", "forget_label_drop"):
        drop = getattr(train, name) or 0.0
        if not 0 <= drop <= 1:
            raise ConfigError(f"train.{name} = {drop}: a probability, 0 to 1")
        if drop and model.null_class is None:
            raise ConfigError(f"train.{name} = {drop} needs a null class to drop to: set model.null_class")


def check_optimizer(optimizer: OptimizerConfig, train: TrainConfig) -> None:
    """Raises ConfigError for an average that would still mostly hold the old weights at the end."""
    for name in ("learning_rate", "max_grad_norm"):
        value = getattr(optimizer, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"optimizer.{name} = {value}: more than 0, and finite")
    for name in ("eps", "weight_decay"):
        if not 0 <= getattr(optimizer, name) < math.inf:
            raise ConfigError(f"optimizer.{name} = {getattr(optimizer, name)}: at least 0, and finite")
    for name, value in (("momentum", optimizer.momentum), *(("betas", beta) for beta in optimizer.betas)):
        if not 0 <= value < 1:
            raise ConfigError(f"optimizer.{name} = {value}: at least 0, less than 1")
    if not 0 <= optimizer.lr_warmup_steps < train.max_train_steps:
        raise ConfigError(
            f"optimizer.lr_warmup_steps = {optimizer.lr_warmup_steps}: at least 0, less than train.max_train_steps = "
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


def check_precision(engine: EngineConfig, method: MethodConfig) -> None:
    """Raises ConfigError where bf16 weights would swallow the inner steps; autocast is off where it would."""
    if engine.precision != "bf16" or not isinstance(method, EraseDiffConfig):
        return
    if method.needs_inner_loop or method.inner_every:
        what = (
            f"method.gradient_of_g = {method.gradient_of_g!r} with method.barrier = {method.barrier!r}"
            if method.needs_inner_loop
            else f"method.inner_every = {method.inner_every}"
        )
        raise ConfigError(
            f"engine.precision = 'bf16' rounds the inner steps away, which {what} looks at: "
            "use 'bf16-autocast', which looks in fp32 arithmetic, or 'fp32'"
        )


def check_engine(engine: EngineConfig, model: DiffusionModel) -> None:
    """Raises ConfigError for a number that is out of range, and for buckets that overlapping would outrun."""
    for name, least in {"forward_batch_size": 1, "reduce_bucket_size": 1, "persistence_threshold": 0}.items():
        value = getattr(engine, name)
        if value is not None and value < least:
            raise ConfigError(f"engine.{name} = {value}: at least {least}")
    if not engine.overlap_communication:
        return
    trained = {name: p.numel() for name, p in model.unet.named_parameters() if p.requires_grad}
    name, numel = max(trained.items(), key=lambda item: item[1])
    # DeepSpeed reduces what no bucket holds where it lies, and frees it while another stream still reads it
    if numel > engine.reduce_bucket_size:
        raise ConfigError(
            f"engine.overlap_communication needs buckets that hold every parameter: {name} has {numel:,} elements, and "
            f"engine.reduce_bucket_size = {engine.reduce_bucket_size:,}: set it to {numel} or more"
        )


def check_kernels(device: torch.device) -> None:
    """Raises ConfigError where the gradient kernels cannot start on a CUDA device. Nothing to check on a CPU."""
    if device.type != "cuda":
        return
    probe = torch.zeros(16, device=device)
    try:
        start(lambda: displace(torch.empty_like(probe), probe, probe, 1.0))
    except KernelError as error:
        raise ConfigError(str(error)) from None
