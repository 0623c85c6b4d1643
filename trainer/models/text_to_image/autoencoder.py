"""A small autoencoder of its own: trained on the pictures at hand, before the model that works on its latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from ....shards.dataset import Dataset
from ....shards.streaming.stream import Stream
from ...config import AutoencoderConfig

# whose annotations are narrower than what it takes
_MAKE: Any = AutoencoderKL
# latents that their spread is measured on
_NUM_MEASURED = 1024


def make_autoencoder(config: AutoencoderConfig, *, image_size: int, channels: int) -> AutoencoderKL:
    """One with random weights, torch's generator deciding them. Each resolution but the first halves the picture."""
    depth = len(config.block_out_channels)
    return _MAKE(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=config.block_out_channels,
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_num_groups,
        sample_size=image_size,
        mid_block_add_attention=False,
    )


def train_autoencoder(
    autoencoder: Any,
    config: AutoencoderConfig,
    data: Dataset,
    *,
    seed: int,
    device: torch.device,
    on_step: Callable[[int, float], None],
) -> None:
    """Trains an AutoencoderKL in place and leaves it on `device`; its `scaling_factor` becomes 1 / σ of its latents.

    Loss: ‖x - x̂‖² + kl_weight · KL, means over elements (arXiv 1312.6114). The result is a function of the arguments.
    `on_step` is told the number of each step, from 0, and its loss.
    """
    stream = Stream(data, seed=seed, batch_size=config.train_batch_size)
    generator = torch.Generator().manual_seed(seed)
    autoencoder.to(device).train()
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=config.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / config.max_train_steps))
    )
    for step in range(config.max_train_steps):
        images = torch.from_numpy(stream.batch(step).images).to(device)
        posterior = autoencoder.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        remade = autoencoder.decode(posterior.mean + posterior.std * noise).sample
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        loss = F.mse_loss(remade, images) + config.kl_weight * divergence
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        on_step(step, loss.item())
    autoencoder.eval().requires_grad_(False)
    measured = Stream(data, seed=seed, batch_size=min(len(data), _NUM_MEASURED)).batch(0)
    autoencoder.register_to_config(
        scaling_factor=1 / _spread(autoencoder, torch.from_numpy(measured.images).to(device))
    )


@torch.no_grad()
def _spread(autoencoder: Any, images: Tensor) -> float:
    """The standard deviation of all elements of the images' latents."""
    latents = torch.cat([autoencoder.encode(chunk).latent_dist.mean for chunk in images.split(256)])
    return latents.double().std().item()
