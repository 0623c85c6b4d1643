"""Samples from a model: seeded a sample, so that two models can be compared image by image, and spread over ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..config import SamplingConfig
from ..errors import ConfigError
from ..randomness import sample_generator
from ..ranks import collectives
from .conditions import Condition
from .model import Forward, Model


@torch.no_grad()
def sample(
    model: Model,
    conditions: Sequence[Condition],
    config: SamplingConfig,
    *,
    device: torch.device | None = None,
    on_batch: Callable[[], None] | None = None,
) -> Tensor:
    """One image for each condition: fp32 [N, C, H, W] in [-1, 1] on the CPU, by the schedule's deterministic sampler.

    on_batch: called after each, whichever rank's it is.

    The i-th image starts from noise that is a function of (seed, i) alone. All ranks call it, each makes its share of
    the batches, and all get the whole: a batch is one rank's, so that the number of ranks changes no bit of it.
    """
    device = device or torch.device("cpu")
    model.to(device).module.eval()
    images = torch.zeros(len(conditions), model.channels, model.image_size, model.image_size, device=device)
    rank, world_size = collectives.rank(), collectives.world_size()
    for number, start in enumerate(range(0, len(conditions), config.batch_size)):
        if number % world_size == rank:
            batch = conditions[start : start + config.batch_size]
            images[start : start + len(batch)] = denoise(model, model.module, batch, config, device=device, first=start)
        if on_batch is not None:
            on_batch()
    # adding the other ranks' zeros changes no bit
    return collectives.sum_(images).cpu()


@torch.no_grad()
def denoise(
    model: Model,
    forward: Forward,
    conditions: Sequence[Condition],
    config: SamplingConfig,
    *,
    device: torch.device,
    first: int,
    purpose: str = "sample",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Images number `first` … for `conditions`, [N, C, H, W] in [-1, 1] on `device`.

    purpose: images of another have other noise. The weights are those that `forward` reads, of type `dtype`; those of
    `model` itself are not read.
    """
    sampler = model.schedule.sampler(config.num_inference_steps)
    noise = [
        sample_generator(config.seed, purpose, first + i).standard_normal(model.latent_shape, dtype=np.float32)
        for i in range(len(conditions))
    ]
    x = sampler.begin(torch.from_numpy(np.stack(noise)).to(device))
    is_guided = model.conditions.has_null and config.guidance_scale != 1.0
    told = model.told([*conditions, *[model.conditions.null] * (len(conditions) * is_guided)], device)
    for t in sampler.timesteps:
        output = model.predict(forward, torch.cat([x, x]) if is_guided else x, t, told, dtype)
        if is_guided:
            with_condition, without = output.chunk(2)
            output = without + config.guidance_scale * (with_condition - without)
        x = sampler.step(output, t, x)
    return model.decode(x).clamp(-1, 1)


def check_sampling(config: SamplingConfig, model: Model, name: str = "sampling") -> None:
    """Raises ConfigError for more steps than the model has timesteps; `name` is what the options are called."""
    num_timesteps = model.schedule.num_timesteps
    if config.num_inference_steps > num_timesteps:
        raise ConfigError(
            f"{name}.num_inference_steps = {config.num_inference_steps}: from 1 to the model's {num_timesteps}"
        )
