"""The relearning test: how fast does the forgotten come back when the model is trained on a little of it?

What was only hidden returns within a few steps; what is gone returns as slowly as it does to a model that never saw it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..config import RelearnConfig, SamplingConfig
from ..models.sampling import sample
from ..models.unet2d import DiffusionModel
from ..randomness import sample_generator
from . import metrics
from .classifier import Classifier


@dataclass(frozen=True)
class RelearningPoint:
    """P_psi after so many fine-tuning steps on forget images."""

    step: int
    p_psi: float | None
    """None where no sample was finite."""
    n: int


def relearn(
    model: DiffusionModel,
    classifier: Classifier,
    images_NCHW: Tensor,
    labels_N: Tensor,
    config: RelearnConfig,
    sampling: SamplingConfig,
    *,
    device: torch.device,
) -> list[RelearningPoint]:
    """The curve of P_psi while a copy of `model` is fine-tuned on forget images, the whole of them in each step.

    Noise and timesteps are a function of (seed, step, image): every model gets the same ones. All ranks call it; they
    train alike and share the sampling.
    """
    tuned = replace(model, unet=copy.deepcopy(model.unet))
    unet = cast(nn.Module, tuned.unet).to(device)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=config.learning_rate, weight_decay=0.0)
    forgotten = sorted(set(labels_N.tolist()))
    wanted = [forgotten[i % len(forgotten)] for i in range(config.num_samples)]
    measured_at = {round(i * config.num_steps / config.num_points) for i in range(config.num_points + 1)}
    points = []
    for step in range(config.num_steps + 1):
        if step in measured_at:
            points.append(_point(step, tuned, classifier, wanted, sampling, device))
        if step < config.num_steps:
            unet.train()
            loss = _loss(tuned, images_NCHW, labels_N, sampling.seed, step, device)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return points


def _point(
    step: int,
    model: DiffusionModel,
    classifier: Classifier,
    wanted: list[int],
    sampling: SamplingConfig,
    device: torch.device,
) -> RelearningPoint:
    images = sample(model, wanted, sampling, device=device)
    finite = images.isfinite().flatten(1).all(1)
    n = int(finite.sum())
    of_each = metrics.p_psi(classifier.probabilities(images[finite]), torch.tensor(wanted)[finite])
    return RelearningPoint(step, of_each.mean().item() if n else None, n)


def _loss(
    model: DiffusionModel, images_NCHW: Tensor, labels_N: Tensor, seed: int, step: int, device: torch.device
) -> Tensor:
    """Eq. (1) on the forget images: what training on them was in the first place."""
    num_timesteps = model.scheduler.config["num_train_timesteps"]
    timesteps = np.empty(len(images_NCHW), dtype=np.int64)
    noise = np.empty(images_NCHW.shape, dtype=np.float32)
    for i in range(len(images_NCHW)):
        generator = sample_generator(seed, "relearn", step * len(images_NCHW) + i)
        timesteps[i] = generator.integers(num_timesteps)
        generator.standard_normal(dtype=np.float32, out=noise[i])
    x_0, epsilon = images_NCHW.to(device), torch.from_numpy(noise).to(device)
    t = torch.from_numpy(timesteps).to(device)
    alphas_cumprod = model.scheduler.alphas_cumprod.to(device)[t].view(-1, 1, 1, 1)
    signal, spread = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    conditions = {"class_labels": labels_N.to(device)} if model.num_classes else {}
    output = cast(nn.Module, model.unet)(signal * x_0 + spread * epsilon, t, **conditions).sample
    target = epsilon if model.prediction_type == "epsilon" else signal * epsilon - spread * x_0
    return (target - output).square().mean()
