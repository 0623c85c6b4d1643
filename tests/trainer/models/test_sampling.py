"""Samples against a guided DDIM loop written out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from erasediff.trainer.config import ModelConfig, SamplingConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.randomness import sample_generator
from tiny import NULL_CLASS
from torch import Tensor

LABELS = [3, 0, 7]


@torch.no_grad()
def by_hand(pipeline: Path, scale: float, num_steps: int, seed: int) -> Tensor:
    """DDIM without noise (arXiv 2010.02502, eq. 12, σ = 0); ε = ε_∅ + w (ε_c - ε_∅) (arXiv 2207.12598), x_0 clipped."""
    unet = UNet2DModel.from_pretrained(pipeline / "unet")
    assert isinstance(unet, UNet2DModel)
    betas = torch.linspace(1e-4, 0.02, 1000)
    alphas_bar = torch.cumprod(1 - betas, 0)
    noise = [sample_generator(seed, "sample", i).standard_normal((1, 8, 8), dtype=np.float32) for i in range(3)]
    x = torch.from_numpy(np.stack(noise))
    stride = 1000 // num_steps
    for step in reversed(range(num_steps)):
        t = step * stride
        with_class, without = (
            unet(x, t, class_labels=torch.tensor(labels)).sample for labels in (LABELS, [NULL_CLASS] * 3)
        )
        epsilon = without + scale * (with_class - without)
        signal, last = alphas_bar[t], alphas_bar[t - stride] if step else torch.tensor(1.0)
        x_0 = ((x - (1 - signal).sqrt() * epsilon) / signal.sqrt()).clamp(-1, 1)
        x = last.sqrt() * x_0 + (1 - last).sqrt() * epsilon
    return x.clamp(-1, 1)


@pytest.mark.parametrize(("scale", "batch_size"), [(0.0, 64), (2.5, 2)])
def test_samples_are_those_of_a_guided_ddim_loop(base_model: Path, scale: float, batch_size: int) -> None:
    model = load_model(ModelConfig(path=str(base_model), null_class=NULL_CLASS))
    sizes: list[int] = []
    model.module.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    config = SamplingConfig(guidance_scale=scale, num_inference_steps=4, seed=5, batch_size=batch_size)
    found = sample(model, LABELS, config)
    expected = by_hand(base_model, scale, 4, 5)
    assert (found - expected).abs().max() < 1e-4
    # one of three images, two of two and one; with and without the class side by side
    assert sizes == ([6] * 4 if batch_size == 64 else [4] * 4 + [2] * 4)
    # guidance the other way round would be seen
    assert (expected - by_hand(base_model, 1 - scale, 4, 5)).abs().max() > 1e-2
