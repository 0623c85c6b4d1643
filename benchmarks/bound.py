"""An upper bound on -log p(x) of one image under a diffusion model: the variational one, its T steps all taken."""

from __future__ import annotations

import math

import numpy as np
import torch
from erasediff.trainer.models.conditions import Condition
from erasediff.trainer.models.model import Model
from erasediff.trainer.models.schedule import DDPMSchedule
from erasediff.trainer.randomness import sample_generator
from torch import Tensor

BATCH_SIZE = 250
NUM_LEVELS = 256  # that a pixel may have, evenly from -1 to 1


@torch.no_grad()
def nll_bound(model: Model, image: Tensor, condition: Condition, *, num_draws: int, seed: int) -> float:
    """In bits of an element; image: [C, H, W] in [-1, 1], of one of `NUM_LEVELS` values each, for a model of pixels.

    As arXiv 2107.00630 has it for discrete time, with SNR = ᾱ/(1 - ᾱ):

        E -log p(x | x_0) + Σ_t ½ (SNR_{t-1}/SNR_t - 1) E ‖ε - ε_θ(x_t)‖² + KL(q(x_T | x) ‖ N(0, 1))

    the first with p(x | x_0) ∝ q(x_0 | x) over the values a pixel may have. Expectations are means over `num_draws` of
    noise, a function of the seed; two models see the same.
    """
    schedule = model.schedule
    assert isinstance(schedule, DDPMSchedule)
    model.module.eval()
    alphas_cumprod = schedule.scheduler.alphas_cumprod.double()
    snr_T = alphas_cumprod / (1 - alphas_cumprod)
    total = _reconstruction(image.double(), alphas_cumprod[0], num_draws, seed) + _prior(
        image.double(), alphas_cumprod[-1]
    )
    steps = np.repeat(np.arange(1, schedule.num_timesteps), num_draws)
    for start in range(0, len(steps), BATCH_SIZE):
        t = torch.from_numpy(steps[start : start + BATCH_SIZE])
        epsilon = _noise(image, seed, "bound", range(start, start + len(t)))
        x_t = schedule.noised(image.expand(epsilon.shape), epsilon, t)
        output = model.predict(model.module, x_t, t, model.told([condition] * len(t), image.device))
        if schedule.scheduler.config["prediction_type"] == "v_prediction":
            # v = γ ε - σ x, x_t = γ x + σ ε
            gamma, sigma = (value[t].view(-1, 1, 1, 1).float() for value in _factors(alphas_cumprod))
            output = gamma * output + sigma * x_t
        squares_B = (epsilon - output).double().square().flatten(1).sum(1)
        total += float((squares_B * (snr_T[t - 1] / snr_T[t] - 1)).sum()) / 2 / num_draws
    return total / image.numel() / math.log(2)


def _factors(alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """γ and σ, [T] each."""
    return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()


def _reconstruction(x: Tensor, alpha_0: Tensor, num_draws: int, seed: int) -> float:
    """E -log p(x | x_0), in nats."""
    gamma, sigma = _factors(alpha_0)
    levels_V = torch.linspace(-1, 1, NUM_LEVELS, dtype=torch.float64)
    own = (x.flatten()[:, None] - levels_V).abs().argmin(1)
    x_0 = gamma * x + sigma * _noise(x, seed, "bound-0", range(num_draws)).double()
    logits = -(((x_0.flatten(1)[:, :, None] - gamma * levels_V) / sigma) ** 2) / 2
    return -float(logits.log_softmax(-1)[:, torch.arange(len(own)), own].sum(1).mean())


def _prior(x: Tensor, alpha_T: Tensor) -> float:
    """KL(q(x_T | x) ‖ N(0, 1)), in nats."""
    return float(((1 - alpha_T) + alpha_T * x.square() - 1 - (1 - alpha_T).log()).sum() / 2)


def _noise(image: Tensor, seed: int, purpose: str, numbers: range) -> Tensor:
    """One each, [N, C, H, W]."""
    drawn = [sample_generator(seed, purpose, i).standard_normal(image.shape, dtype=np.float32) for i in numbers]
    return torch.from_numpy(np.stack(drawn))
