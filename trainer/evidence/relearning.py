"""The relearning test: how fast does the forgotten come back when the model is trained on a little of it?

What was only hidden returns within a few steps; what is gone returns as slowly as it does to a model that never saw it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import RelearnConfig, SamplingConfig
from ..models.model import Model
from ..models.sampling import sample
from ..objectives.objective import objective_of
from ..randomness import sample_generator
from . import metrics
from .classifier import Classifier
from .images import Asked, Images
from .intervals import score_interval


@dataclass(frozen=True)
class RelearningPoint:
    """P_psi after so many fine-tuning steps on forget images."""

    step: int
    p_psi: float | None
    """None where no sample was finite."""
    n: int
    low: float | None = None
    """Lower end of its 95 % interval, and `high` the upper: Wilson's."""
    high: float | None = None


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

    wanted: what P_psi is measured on. What is random is a function of (seed, step, image): the same for every model;
    there is no dropout.
    All ranks call it; they train alike and share the sampling.
    """
    tuned = model.copied().to(device)
    optimizer = _optimizer(tuned, config)
    measured_at = {round(i * config.num_steps / config.num_points) for i in range(config.num_points + 1)}
    points = []
    for step in range(config.num_steps + 1):
        if step in measured_at:
            points.append(_point(step, tuned, classifier, wanted, sampling, device))
        if step < config.num_steps:
            loss = _loss(tuned, images, sampling.seed, step, device)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return points


def _optimizer(model: Model, config: RelearnConfig) -> torch.optim.Optimizer:
    weights = model.module.parameters()
    match config.optimizer:
        case "adamw":
            return torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0)
        case "sgd":
            return torch.optim.SGD(weights, lr=config.learning_rate, momentum=0.9)


def _point(
    step: int, model: Model, classifier: Classifier, wanted: Asked, sampling: SamplingConfig, device: torch.device
) -> RelearningPoint:
    images = sample(model, wanted.conditions, sampling, device=device)
    finite = images.isfinite().flatten(1).all(1)
    n = int(finite.sum())
    of_each = metrics.p_psi(classifier.probabilities(images[finite]), torch.tensor(wanted.labels)[finite])
    if not n:
        return RelearningPoint(step, None, 0)
    mean = of_each.mean().item()
    return RelearningPoint(step, mean, n, *score_interval(mean, n))


def _loss(model: Model, images: Images, seed: int, step: int, device: torch.device) -> Tensor:
    """Of the forget images by the model's objective: what training on them was in the first place."""
    first = step * len(images)
    generators = [sample_generator(seed, "relearn", first + i) for i in range(len(images))]
    return objective_of(model).training_loss(model, images.images.to(device), images.conditions, generators)
