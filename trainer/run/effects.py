"""Settings that change nothing as things are, and sets that may be meant otherwise: a line for each, before a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...shards.dataset import Dataset
from ..config import (
    EngineConfig,
    JudgeConfig,
    MethodConfig,
    OptimizerConfig,
    PretrainConfig,
    ResNetConfig,
    SamplingConfig,
    ScrubConfig,
    StableDiffusionConfig,
    TrainConfig,
    UNetConfig,
)
from ..config.methods import method_kind
from ..models.lineage import describe_forgotten, forgotten_rows
from ..models.model import Model


def effect_notes(
    method: MethodConfig, train: TrainConfig, optimizer: OptimizerConfig, engine: EngineConfig, *, on_cuda: bool
) -> list[str]:
    """A line for each setting of a run by this method that somebody has set and that changes nothing."""
    sections: dict[str, Any] = {"method": method, "train": train, "optimizer": optimizer, "engine": engine}
    reasons = method.without_effect() | _of_optimizer(optimizer) | _of_engine(engine, method, on_cuda)
    lines = []
    for key, why in reasons.items():
        section, name = key.split(".")
        value = getattr(sections[section], name)
        if value is not None and value != getattr(type(sections[section])(), name):
            lines.append(f"no effect   {key} = {value}: {why}")
    return lines


def pretrain_effect_notes(config: PretrainConfig, *, on_cuda: bool) -> list[str]:
    """The same of a pretraining."""
    method = method_kind("finetune")("finetune")
    lines = effect_notes(method, config.train, config.optimizer, config.engine, on_cuda=on_cuda)
    ratio, name = config.train.max_loss_r_ratio, config.pipeline
    if ratio != TrainConfig().max_loss_r_ratio:
        lines.append(f"no effect   train.max_loss_r_ratio = {ratio}: it ends a scrub")
    if name != "unet2d" and config.unet != UNetConfig():
        lines.append(f"no effect   unet: it is for pipeline = 'unet2d', and this one is {name!r}")
    if name != "stable-diffusion" and config.stable_diffusion != StableDiffusionConfig():
        lines.append(f"no effect   stable_diffusion: it is for pipeline = 'stable-diffusion', and this one is {name!r}")
    return lines


def _of_optimizer(optimizer: OptimizerConfig) -> dict[str, str]:
    if optimizer.name == "sgd":
        return {"optimizer.betas": "they are Adam's", "optimizer.eps": "it is Adam's"}
    return {"optimizer.momentum": "it is sgd's"}


def _of_engine(engine: EngineConfig, method: MethodConfig, on_cuda: bool) -> dict[str, str]:
    found = {}
    if engine.activation_checkpointing == "inner" and not method.takes_inner_gradients:
        found["engine.activation_checkpointing"] = "no step takes a gradient in an inner loop; try 'all'"
    if engine.activation_checkpointing == "off":
        found["engine.activation_checkpointing_share"] = "engine.activation_checkpointing is 'off'"
    if engine.zero_stage != 3:
        found["engine.persistence_threshold"] = "the weights are whole on every rank; it is for engine.zero_stage = 3"
    if on_cuda:
        found["engine.num_threads"] = "it is for runs on a CPU"
    else:
        found["engine.deterministic"] = "on a CPU every run is"
        found["engine.cudnn_benchmark"] = "it is for runs on CUDA"
        if engine.precision == "tf32":
            found["engine.precision"] = "on a CPU it computes as fp32 does"
    return found


def judge_effect_notes(judge: JudgeConfig, *, forgets_classes: bool, has_null: bool) -> list[str]:
    """The same of an evaluation's settings."""
    scale, found = judge.sampling.guidance_scale, []
    if judge.relearn and not forgets_classes:
        found.append("no effect   judge.relearn = True: it measures a class, and single samples are forgotten")
    if judge.attacks and not forgets_classes:
        found.append("no effect   judge.attacks: they attack a class, and single samples are forgotten")
    if not has_null and scale != SamplingConfig().guidance_scale:
        found.append(f"no effect   judge.sampling.guidance_scale = {scale}: the model has no null class")
    if judge.detector is None and judge.detector_thresholds != JudgeConfig().detector_thresholds:
        found.append(
            f"no effect   judge.detector_thresholds = {[*judge.detector_thresholds]}: judge.detector names none"
        )
    trains = judge.classifier is None or (judge.factor is not None and judge.factor_classifier is None)
    if not trains and judge.architecture != "cnn":
        found.append(f"no effect   judge.architecture = {judge.architecture!r}: judge.classifier names one")
    elif judge.architecture == "cnn" and judge.resnet != ResNetConfig():
        found.append("no effect   judge.resnet: judge.architecture = 'resnet' would train one")
    if judge.kept_prompts is None and judge.num_kept_samples is not None:
        found.append(f"no effect   judge.num_kept_samples = {judge.num_kept_samples}: judge.kept_prompts names none")
    return found


def size_notes(forget: Dataset, remain: Dataset, config: ScrubConfig) -> list[str]:
    """Where the sets may have been confused, and where a step sees a sample more than once."""
    notes = []
    if len(forget) > len(remain):
        notes.append(
            f"swapped?    forget = '{forget.path}' has {len(forget):,} samples, remain = '{remain.path}' "
            f"{len(remain):,}: the first are forgotten, the second are kept"
        )
    for name, data in (("forget", forget), ("remain", remain)):
        if len(data) < config.train.train_batch_size and (name == "remain" or config.method.needs_forget):
            notes.append(
                f"batch       train.train_batch_size = {config.train.train_batch_size} is more than the {len(data):,} "
                f"samples of {name} = '{data.path}': a step sees some more than once"
            )
    return notes


def again_notes(model: Model, forget: Dataset) -> list[str]:
    """Whether earlier requests on the model named D_f, or some of it. forget: with the model's classes for labels."""
    earlier = model.lineage.forgotten
    num = np.count_nonzero(forgotten_rows(earlier, forget, model.conditions.of_dataset))
    if not num:
        return []
    named = f"{num:,} of the {len(forget):,} samples are of requests that the model has been through"
    return [f"again       {named}: {describe_forgotten(earlier)}"]
