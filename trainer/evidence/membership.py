"""The membership test: can the forget set be told from data no model saw, by the model's loss on it?"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..models.sampling import CHUNK
from ..models.unet2d import DiffusionModel
from ..randomness import sample_generator
from ..ranks import collectives
from .intervals import normal_interval
from .metrics import Measurement, auc

# noise levels a sample's loss is averaged over: spread evenly, a draw of noise at each
NUM_NOISE_LEVELS = 20
# with fewer on a side the normal interval misses too often: that of two members' AUC a third of the time
MIN_SAMPLES = 10


@torch.no_grad()
def sample_losses(
    model: DiffusionModel, images_NCHW: Tensor, labels_N: Tensor, *, seed: int, device: torch.device
) -> Tensor:
    """Each image's loss of eq. (1), the mean over noise levels and elements, fp64 [N] on the CPU.

    Noise is a function of (seed, number of the image, level): two models see the same. All ranks call it.
    """
    unet = cast(nn.Module, model.unet).to(device).eval()
    num_timesteps = model.scheduler.config["num_train_timesteps"]
    levels = ((np.arange(NUM_NOISE_LEVELS) + 0.5) * num_timesteps / NUM_NOISE_LEVELS).astype(np.int64)
    alphas_cumprod = model.scheduler.alphas_cumprod.to(device)
    losses = torch.zeros(len(images_NCHW), dtype=torch.float64, device=device)
    rank, world_size = collectives.rank(), collectives.world_size()
    for number, start in enumerate(range(0, len(images_NCHW), CHUNK)):
        if number % world_size != rank:
            continue
        x_0 = images_NCHW[start : start + CHUNK].to(device)
        conditions = {"class_labels": labels_N[start : start + CHUNK].to(device)} if model.num_classes else {}
        noises = [
            sample_generator(seed, "membership", start + i).standard_normal(
                (NUM_NOISE_LEVELS, *x_0.shape[1:]), dtype=np.float32
            )
            for i in range(len(x_0))
        ]
        noise_BLCHW = torch.from_numpy(np.stack(noises)).to(device)
        for i, level in enumerate(levels.tolist()):
            signal, spread = alphas_cumprod[level].sqrt(), (1 - alphas_cumprod[level]).sqrt()
            epsilon = noise_BLCHW[:, i]
            target = epsilon if model.prediction_type == "epsilon" else signal * epsilon - spread * x_0
            output = unet(signal * x_0 + spread * epsilon, level, **conditions).sample
            losses[start : start + CHUNK] += (target - output).double().square().flatten(1).mean(1) / NUM_NOISE_LEVELS
    return collectives.sum_(losses).cpu()


def membership_auc(
    model: DiffusionModel,
    members: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    *,
    seed: int,
    device: torch.device,
) -> Measurement:
    """AUC of telling `members` (images, labels) from `held_out` ones by a lower loss; .5: they cannot be told apart."""
    losses = [sample_losses(model, *images, seed=seed, device=device) for images in (members, held_out)]
    finite = [loss[loss.isfinite()] for loss in losses]
    n = sum(map(len, finite))
    if not all(map(len, finite)):
        return Measurement(None, n, seed, reason="no sample with a finite loss on one side")
    value, variance = auc(-finite[0], -finite[1])
    if min(map(len, finite)) < MIN_SAMPLES:  # it may be anywhere
        return Measurement(value.item(), n, seed, low=0.0, high=1.0)
    low, high = normal_interval(value.item(), variance.item())
    return Measurement(value.item(), n, seed, low=max(0.0, low), high=min(1.0, high))


def membership_gap(area: Measurement) -> Measurement:
    """|AUC - .5|: an AUC of 0 tells members from others as well as one of 1."""
    if area.value is None or area.low is None or area.high is None:
        return area
    ends = sorted((abs(area.low - 0.5), abs(area.high - 0.5)))
    low = 0.0 if area.low <= 0.5 <= area.high else ends[0]
    return replace(area, value=abs(area.value - 0.5), low=low, high=ends[1])
