"""The membership test: can the forget set be told from data no model saw, by the model's loss on it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..models.model import Model
from ..objectives.objective import objective_of
from ..randomness import sample_generator
from ..ranks import collectives
from .images import Images
from .intervals import MIN_SAMPLES, normal_interval, score_interval
from .metrics import Estimate, Measurement, alone, auc, auc_influences, estimated


@torch.no_grad()
def sample_losses(model: Model, images: Images, *, seed: int, batch_size: int, device: torch.device) -> Tensor:
    """Each image's loss by the model's objective, fp64 [N] on the CPU.

    What is random is a function of (seed, number of the image): two models see the same. All ranks call it.
    """
    model.to(device).module.eval()
    objective = objective_of(model)
    losses = torch.zeros(len(images), dtype=torch.float64, device=device)
    rank, world_size = collectives.rank(), collectives.world_size()
    for number, start in enumerate(range(0, len(images), batch_size)):
        if number % world_size != rank:
            continue
        rows = slice(start, min(start + batch_size, len(images)))
        generators = [sample_generator(seed, "membership", i) for i in range(rows.start, rows.stop)]
        losses[rows] = objective.losses_of(model, images.images[rows].to(device), images.conditions[rows], generators)
    return collectives.sum_(losses).cpu()


def membership_auc(
    model: Model, members: Images, held_out: Images, *, seed: int, batch_size: int, device: torch.device
) -> Measurement:
    """AUC of telling `members` from `held_out` images by a lower loss; .5: they cannot be told apart."""
    about: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "device": device}
    return auc_of([sample_losses(model, images, **about) for images in (members, held_out)], seed)


def auc_of(losses: Sequence[Tensor], seed: int) -> Measurement:
    """The AUC, and its interval, of telling members by the losses of both, [N] and [M]."""
    finite = [loss[loss.isfinite()] for loss in losses]
    n = sum(map(len, finite))
    if not all(map(len, finite)):
        return Measurement(None, n, seed, reason="no sample with a finite loss on one side")
    value, variance = auc(-finite[0], -finite[1])
    fewer = min(map(len, finite))
    if fewer < MIN_SAMPLES:  # it may be anywhere
        return Measurement(value.item(), n, seed, low=0.0, high=1.0, num_independent=fewer)
    low, high = normal_interval(value.item(), variance.item())
    if variance == 0:  # all told apart: DeLong's says that this is certain
        low, high = score_interval(value.item(), fewer)
    figure = Measurement(value.item(), n, seed, low=max(0.0, low), high=min(1.0, high), num_independent=fewer)
    # where a side has lost samples they are no longer in step with another model's
    return estimated(figure, auc_influences(-finite[0], -finite[1])) if n == sum(map(len, losses)) else figure


def membership_gap(area: Measurement) -> Measurement:
    """|AUC - .5|: an AUC of 0 tells members from others as well as one of 1."""
    if area.value is None or area.low is None or area.high is None:
        return area
    ends = sorted((abs(area.low - 0.5), abs(area.high - 0.5)))
    is_folded = area.low <= 0.5 <= area.high
    gap = replace(alone(area), value=abs(area.value - 0.5), low=0.0 if is_folded else ends[0], high=ends[1])
    if is_folded or not isinstance(area, Estimate) or area.influences_N is None:
        return gap
    return estimated(gap, area.influences_N if area.value > 0.5 else -area.influences_N)
