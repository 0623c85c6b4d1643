"""The relearning test: how fast does the forgotten come back when the model is trained on a little of it?

What was only hidden returns within a few steps; what is gone returns as slowly as it does to a model that never saw it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import RelearnConfig, SamplingConfig
from ..models.model import Model
from ..models.sampling import sample
from ..randomness import sample_generator
from . import metrics
from .classifier import Classifier
from .images import Asked, Images


@dataclass(frozen=True)
class RelearningPoint:
    """P_psi after so many fine-tuning steps on forget images."""

    step: int
    p_psi: float | None
    """None where no sample was finite."""
    n: int


def relearn(
    model: Model,
    classifier: Classifier,
    images: Images,
    wanted: Asked,
    config: RelearnConfig,
    sampling: SamplingConfig,
    *,
    device: torch.device,
) -> list[RelearningPoint]:
    """The curve of P_psi while a copy of `model` is fine-tuned on forget images, the whole of them in each step.

    wanted: what P_psi is measured on. Noise and timesteps are a function of (seed, step, image): every model gets the
    same ones. All ranks call it; they train alike and share the sampling.
    """
    tuned = model.copied().to(device)
    optimizer = torch.optim.AdamW(tuned.module.parameters(), lr=config.learning_rate, weight_decay=0.0)
    measured_at = {round(i * config.num_steps / config.num_points) for i in range(config.num_points + 1)}
    points = []
    for step in range(config.num_steps + 1):
        if step in measured_at:
            points.append(_point(step, tuned, classifier, wanted, sampling, device))
        if step < config.num_steps:
            tuned.module.train()
            loss = _loss(tuned, images, sampling.seed, step, device)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return points


def _point(
    step: int, model: Model, classifier: Classifier, wanted: Asked, sampling: SamplingConfig, device: torch.device
) -> RelearningPoint:
    images = sample(model, wanted.conditions, sampling, device=device)
    finite = images.isfinite().flatten(1).all(1)
    n = int(finite.sum())
    of_each = metrics.p_psi(classifier.probabilities(images[finite]), torch.tensor(wanted.labels)[finite])
    return RelearningPoint(step, of_each.mean().item() if n else None, n)


def _loss(model: Model, images: Images, seed: int, step: int, device: torch.device) -> Tensor:
    """Eq. (1) on the forget images: what training on them was in the first place."""
    schedule, num_images = model.schedule, len(images)
    timesteps = np.empty(num_images, dtype=schedule.timestep_type)
    noise = np.empty((num_images, *model.latent_shape), dtype=np.float32)
    for i in range(num_images):
        generator = sample_generator(seed, "relearn", step * num_images + i)
        timesteps[i] = schedule.draw(generator)
        generator.standard_normal(dtype=np.float32, out=noise[i])
    epsilon, t = torch.from_numpy(noise).to(device), torch.from_numpy(timesteps).to(device)
    with torch.no_grad():
        x_0, told = model.encode(images.images.to(device)), model.told(images.conditions, device)
    return model.residual(x_0, epsilon, t, told).square().mean()
