"""The bound on an image's -log p against the KL divergences that it is made of, Gaussian by Gaussian, in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_modules import load
from diffusers import DDPMScheduler
from erasediff.trainer.config import ModelConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.randomness import sample_generator
from tiny import make_pipeline
from torch import Tensor
from torch.distributions import Normal, kl_divergence


def posterior(x_0: Tensor, x_t: Tensor, before: Tensor, beta: Tensor) -> Normal:
    """q(x_{t-1} | x_t, x_0), eqs. (6) and (7) of arXiv 2006.11239; before: ᾱ_{t-1}."""
    noise = 1 - before * (1 - beta)
    mean = before.sqrt() * beta / noise * x_0 + (1 - beta).sqrt() * (1 - before) / noise * x_t
    return Normal(mean, (beta * (1 - before) / noise).sqrt().expand(mean.shape))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_bound_is_the_sum_of_its_steps(tmp_path: Path, prediction_type: Any) -> None:
    model = load_model(ModelConfig(str(make_pipeline(tmp_path / "m", prediction_type=prediction_type)), null_class=10))
    levels = torch.linspace(-1, 1, 256)
    x = levels[torch.arange(0, 256, 4)].view(1, 8, 8)
    found = load("bound").nll_bound(model, x, 3, num_draws=2, seed=4)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    alpha_bar, beta = (value.double() for value in (scheduler.alphas_cumprod, scheduler.betas))
    x_64, unit = x.double(), Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    last = Normal(alpha_bar[-1].sqrt() * x_64, (1 - alpha_bar[-1]).sqrt())
    expected = kl_divergence(last, unit).sum()
    for draw in range(2):
        noise = torch.from_numpy(sample_generator(4, "bound-0", draw).standard_normal(x.shape, dtype=np.float32))
        x_0 = alpha_bar[0].sqrt() * x_64 + (1 - alpha_bar[0]).sqrt() * noise
        likely = Normal(alpha_bar[0].sqrt() * levels.double(), (1 - alpha_bar[0]).sqrt()).log_prob(x_0[..., None]).exp()
        own = torch.arange(0, 256, 4).view(1, 8, 8, 1)
        expected -= (likely.gather(-1, own)[..., 0] / likely.sum(-1)).log().sum() / 2
    steps = np.repeat(np.arange(1, 1000), 2)
    for number in range(0, len(steps), 111):
        t = torch.from_numpy(steps[number : number + 111])
        drawn = [
            sample_generator(4, "bound", number + i).standard_normal(x.shape, dtype=np.float32) for i in range(len(t))
        ]
        x_t: Any = scheduler.add_noise(x.expand(len(t), -1, -1, -1), torch.from_numpy(np.stack(drawn)), t)  # pyright: ignore
        with torch.no_grad():
            output = model.module(x_t, t, class_labels=torch.full((len(t),), 3)).sample.double()
        gamma, sigma = (value[t].view(-1, 1, 1, 1) for value in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))
        predicted = (x_t - sigma * output) / gamma if prediction_type == "epsilon" else gamma * x_t - sigma * output
        by = {
            name: value[at].view(-1, 1, 1, 1) for name, value, at in (("before", alpha_bar, t - 1), ("beta", beta, t))
        }
        expected += kl_divergence(posterior(x_64, x_t, **by), posterior(predicted, x_t, **by)).sum() / 2
    assert found == pytest.approx(float(expected) / 64 / math.log(2), rel=1e-4)
