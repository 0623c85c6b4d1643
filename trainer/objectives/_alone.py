"""The diffusion objective's loss by a model's own weights, without an engine: what the evidence is measured by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..models.conditions import Condition
from ..models.model import Model, Told

# noise levels an image's loss is averaged over: spread evenly, a draw of noise at each
NUM_NOISE_LEVELS = 20


@torch.no_grad()
def losses_of(
    model: Model, images: Tensor, conditions: Sequence[Condition], generators: Sequence[np.random.Generator]
) -> Tensor:
    """Eq. (1) of each image, the mean over noise levels and elements, fp64 [B]."""
    device, schedule = images.device, model.schedule
    x_0, told = model.encode(images), model.told(conditions, device)
    shape = (NUM_NOISE_LEVELS, *x_0.shape[1:])
    noises = [generator.standard_normal(shape, dtype=np.float32) for generator in generators]
    noise_BLCHW = torch.from_numpy(np.stack(noises)).to(device)
    losses = torch.zeros(len(images), dtype=torch.float64, device=device)
    for i, level in enumerate(schedule.levels(NUM_NOISE_LEVELS)):
        t = torch.from_numpy(np.full(len(x_0), level, dtype=schedule.timestep_type)).to(device)
        apart = _residual(model, x_0, noise_BLCHW[:, i], t, told)
        losses += apart.double().square().flatten(1).mean(1) / NUM_NOISE_LEVELS
    return losses


def training_loss(
    model: Model,
    images: Tensor,
    conditions: Sequence[Condition],
    generators: Sequence[np.random.Generator],
    told: Told | None = None,
) -> Tensor:
    """Eq. (1), each image at a timestep and a noise drawn for it. told: in place of what the conditions say."""
    device = images.device
    timesteps = np.empty(len(images), dtype=model.schedule.timestep_type)
    noise = np.empty((len(images), *model.latent_shape), dtype=np.float32)
    for i, generator in enumerate(generators):
        timesteps[i] = model.schedule.draw(generator)
        generator.standard_normal(dtype=np.float32, out=noise[i])
    epsilon, t = torch.from_numpy(noise).to(device), torch.from_numpy(timesteps).to(device)
    with torch.no_grad():
        x_0 = model.encode(images)
        told = model.told(conditions, device) if told is None else told
    return _residual(model, x_0, epsilon, t, told).square().mean()


def _residual(model: Model, x_0: Tensor, epsilon: Tensor, t: Tensor, told: Told) -> Tensor:
    """Target minus output of eq. (1), by the model's own weights."""
    output = model.predict(model.module, model.schedule.noised(x_0, epsilon, t), t, told)
    return model.schedule.target(x_0, epsilon, t) - output
