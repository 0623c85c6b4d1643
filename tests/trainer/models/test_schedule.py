"""Another schedule than DDPM's: a flow's velocity, trained on and sampled through the same objective and sampler."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from erasediff.shards import Dataset, Stream
from erasediff.trainer.config import ModelConfig, SamplingConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.objectives.diffusion import DiffusionObjective
from erasediff.trainer.randomness import sample_generator
from tiny import NULL_CLASS
from torch import Tensor


class Euler:
    """σ from 1 to 0 in equal steps; noise begins at σ = 1."""

    def __init__(self, num_steps: int):
        self._size = 1 / num_steps
        self.timesteps = 1000 * (1 - torch.arange(num_steps) / num_steps)

    def begin(self, noise: Tensor) -> Tensor:
        return noise

    def step(self, output: Tensor, t: Tensor, x: Tensor) -> Tensor:
        return x - self._size * output


class Flow:
    """x_t = (1 - σ) x_0 + σ ε, t = 1000 σ; the model predicts ε - x_0 (rectified flow, arXiv 2209.03003)."""

    num_timesteps = 1000
    timestep_type = np.dtype(np.float32)

    def draw(self, generator: np.random.Generator) -> float:
        return 1000 * generator.random()

    def levels(self, count: int) -> list[float]:
        return [1000 * (i + 0.5) / count for i in range(count)]

    def noised(self, x_0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        sigma = (t / 1000).view(-1, 1, 1, 1)
        return (1 - sigma) * x_0 + sigma * epsilon

    def target(self, x_0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        return epsilon - x_0

    def sampler(self, num_steps: int) -> Euler:
        return Euler(num_steps)


def test_a_flow_trains_and_samples(digits: Path, base_model: Path) -> None:
    loaded: Any = load_model(ModelConfig(str(base_model), null_class=NULL_CLASS))
    model = dataclasses.replace(loaded, schedule=Flow())
    samples = Stream(Dataset.open(digits / "data"), seed=0, batch_size=16).batch(0)
    (batch,) = DiffusionObjective(model, torch.device("cpu"), seed=5, label_drop=0.0).remain_batches(samples)
    found = batch.noised
    assert found.timesteps.dtype == torch.float32 and len(set(found.timesteps.tolist())) == 16
    sigma = found.timesteps.view(-1, 1, 1, 1) / 1000
    x_0 = torch.from_numpy(samples.images)
    assert torch.allclose(found.x_t, (1 - sigma) * x_0 + sigma * found.epsilon, atol=1e-6)
    assert batch.target is not None and torch.allclose(batch.target, found.epsilon - x_0, atol=1e-6)

    images = sample(model, [3, 7], SamplingConfig(guidance_scale=1.0, num_inference_steps=2, seed=9))
    noise = [sample_generator(9, "sample", i).standard_normal((1, 8, 8), dtype=np.float32) for i in range(2)]
    x = torch.from_numpy(np.stack(noise))
    with torch.no_grad():
        for t in (1000.0, 500.0):
            x = x - 0.5 * model.module(x, torch.tensor(t), class_labels=torch.tensor([3, 7])).sample
    assert torch.allclose(images, x.clamp(-1, 1), atol=1e-5)
