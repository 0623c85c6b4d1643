"""The membership test: can the forget set be told from data no model saw, by the model's loss on it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..models.model import Model
from ..models.sampling import CHUNK
from ..randomness import sample_generator
from ..ranks import collectives
from .images import Images
from .intervals import normal_interval, score_interval
from .metrics import Measurement, auc

# noise levels a sample's loss is averaged over: spread evenly, a draw of noise at each
NUM_NOISE_LEVELS = 20
# with fewer on a side the normal interval misses too often: that of two members' AUC a third of the time
MIN_SAMPLES = 10


@torch.no_grad()
def sample_losses(model: Model, images: Images, *, seed: int, device: torch.device) -> Tensor:
    """Each image's loss of eq. (1), the mean over noise levels and elements, fp64 [N] on the CPU.

    Noise is a function of (seed, number of the image, level): two models see the same. All ranks call it.
    """
    model.to(device).module.eval()
    schedule = model.schedule
    levels = schedule.levels(NUM_NOISE_LEVELS)
    losses = torch.zeros(len(images), dtype=torch.float64, device=device)
    rank, world_size = collectives.rank(), collectives.world_size()
    for number, start in enumerate(range(0, len(images), CHUNK)):
        if number % world_size != rank:
            continue
        x_0 = model.encode(images.images[start : start + CHUNK].to(device))
        told = model.told(images.conditions[start : start + CHUNK], device)
        noises = [
            sample_generator(seed, "membership", start + i).standard_normal(
                (NUM_NOISE_LEVELS, *x_0.shape[1:]), dtype=np.float32
            )
            for i in range(len(x_0))
        ]
        noise_BLCHW = torch.from_numpy(np.stack(noises)).to(device)
        for i, level in enumerate(levels):
            epsilon = noise_BLCHW[:, i]
            t = torch.from_numpy(np.full(len(x_0), level, dtype=schedule.timestep_type)).to(device)
            apart = model.residual(x_0, epsilon, t, told)
            losses[start : start + CHUNK] += apart.double().square().flatten(1).mean(1) / NUM_NOISE_LEVELS
    return collectives.sum_(losses).cpu()


def membership_auc(model: Model, members: Images, held_out: Images, *, seed: int, device: torch.device) -> Measurement:
    """AUC of telling `members` from `held_out` images by a lower loss; .5: they cannot be told apart."""
    return auc_of([sample_losses(model, images, seed=seed, device=device) for images in (members, held_out)], seed)


def auc_of(losses: Sequence[Tensor], seed: int) -> Measurement:
    """The AUC, and its interval, of telling members by the losses of both, [N] and [M]."""
    finite = [loss[loss.isfinite()] for loss in losses]
    n = sum(map(len, finite))
    if not all(map(len, finite)):
        return Measurement(None, n, seed, reason="no sample with a finite loss on one side")
    value, variance = auc(-finite[0], -finite[1])
    if min(map(len, finite)) < MIN_SAMPLES:  # it may be anywhere
        return Measurement(value.item(), n, seed, low=0.0, high=1.0)
    low, high = normal_interval(value.item(), variance.item())
    if variance == 0:  # all told apart: DeLong's says that this is certain
        low, high = score_interval(value.item(), min(map(len, finite)))
    return Measurement(value.item(), n, seed, low=max(0.0, low), high=min(1.0, high))


def membership_gap(area: Measurement) -> Measurement:
    """|AUC - .5|: an AUC of 0 tells members from others as well as one of 1."""
    if area.value is None or area.low is None or area.high is None:
        return area
    ends = sorted((abs(area.low - 0.5), abs(area.high - 0.5)))
    low = 0.0 if area.low <= 0.5 <= area.high else ends[0]
    return replace(area, value=abs(area.value - 0.5), low=low, high=ends[1])
