"""The step taken, and the log's conflict by layer, clip, shortfall and descent follow from autograd's gradients."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from erasediff.shards.dataset import Dataset
from erasediff.shards.streaming.stream import Stream
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import ModelConfig, OptimizerConfig, TrainConfig
from erasediff.trainer.methods._two_gradients import explain
from erasediff.trainer.models.families import load_model
from erasediff.trainer.objectives.diffusion import DiffusionBatch, DiffusionObjective
from erasediff.trainer.scrubbing import run_scrub
from safetensors.torch import load_file
from tiny import tiny_config

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("gradient_of_g", ["envelope", "first_order"])
def test_cosines_by_layer_the_clip_and_the_step(
    digits: Path, base_model: Path, tmp_path: Path, gradient_of_g: str
) -> None:
    method = EraseDiffConfig(target="noise", eta=0.5, gradient_of_g=gradient_of_g, xi=0.1, lambda_cap=None)  # pyright: ignore[reportArgumentType]
    train = TrainConfig(max_train_steps=1, train_batch_size=6, descent_every=1, seed=3)
    config = tiny_config(digits, base_model, tmp_path / "run", method=method, train=train)
    # δ is scaled by the clip, the logged cosines are of the gradients before it
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.5, max_grad_norm=0.1)
    scrubbed = load_file(run_scrub(dataclasses.replace(config, optimizer=optimizer)) / WEIGHTS)
    (line,) = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    model = load_model(ModelConfig(str(base_model), null_class=10))
    objective = DiffusionObjective(model, torch.device("cpu"), seed=3, label_drop=0.1, method=method)
    names = [name for name, _ in model.module.named_parameters()]
    theta = {name: value.detach().double().clone() for name, value in model.module.named_parameters()}

    def gradient(batch: DiffusionBatch) -> dict[str, torch.Tensor]:
        output = model.module(batch.noised.x_t, batch.noised.timesteps, **batch.noised.told).sample
        assert batch.target is not None
        loss = (batch.target - output).square().mean()
        found = torch.autograd.grad(loss, list(model.module.parameters()))
        return {name: value.double() for name, value in zip(names, found, strict=True)}

    def batch(side: str) -> DiffusionBatch:
        data = Dataset.open(digits / "split" / side)
        samples = Stream(data, seed=3, batch_size=6, image_size=8, channels=1).batch(0)
        if side == "remain":
            return objective.remain_batches(samples)[0]
        (found,) = objective.forget_batches(samples)
        return dataclasses.replace(found, target=found.prepared)  # the noise target's draws are the target

    grad_r, grad_g = gradient(batch("remain")), gradient(batch("forget"))
    if gradient_of_g == "first_order":
        with torch.no_grad():
            for name, parameter in model.module.named_parameters():
                parameter -= 0.1 * grad_g[name].float()
        grad_phi = gradient(batch("forget"))
        grad_g = {name: grad_g[name] - grad_phi[name] for name in names}

    def over(layer: str, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return sum((a[name] * b[name]).sum().item() for name in names if name.rpartition(".")[0] == layer)

    layers = {name.rpartition(".")[0] for name in names}
    assert set(line["conflict"]) == layers and len(layers) > 10
    for layer in layers:
        squares = over(layer, grad_g, grad_g) * over(layer, grad_r, grad_r)
        expected = over(layer, grad_g, grad_r) / squares**0.5 if squares else 0.0
        assert line["conflict"][layer] == pytest.approx(expected, abs=2e-3), layer
    assert any(abs(value) > 0.05 for value in line["conflict"].values())
    assert any(round(value, 3) != value == round(value, 4) for value in line["conflict"].values())

    gg, gr, rr = (
        sum(over(layer, a, b) for layer in layers) for a, b in ((grad_g, grad_g), (grad_g, grad_r), (grad_r, grad_r))
    )
    a_t = 0.5 * gg
    lambda_t = max(0.0, (a_t - gr) / gg)
    clip = 0.1 / (rr + 2 * lambda_t * gr + lambda_t**2 * gg) ** 0.5
    assert line["clip"] == pytest.approx(clip, rel=2e-3) and clip < 1
    assert line["shortfall"] == pytest.approx(a_t - clip * (gr + lambda_t * gg), rel=2e-3)

    # θ_{t+1} = θ_t - lr · clip · δ, and ⟨∇g, θ_t - θ_{t+1}⟩ = lr · clip · ⟨∇g, δ⟩
    expected = {name: theta[name] - 0.5 * clip * (grad_r[name] + lambda_t * grad_g[name]) for name in names}
    apart = sum((scrubbed[name].double() - expected[name]).square().sum().item() for name in names) ** 0.5
    assert apart < 2e-3 * 0.5 * 0.1
    assert line["descent"] == pytest.approx(0.5 * clip * (gr + lambda_t * gg), rel=2e-3) and line["descent"] > 0


@pytest.mark.parametrize("length", [1.0, 1e-3])
def test_the_cosines_that_follow_from_the_sums(length: float) -> None:
    """Of two vectors and of δ = ∇L_r + λ_t ∇g, by numpy."""
    g, r, lambda_t = length * np.array([3.0, 1.0, -2.0]), length * np.array([0.5, -1.0, -0.75]), 0.7
    delta = r + lambda_t * g

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    sums = {"dot_gg": float(g @ g), "dot_gr": float(g @ r), "dot_rr": float(r @ r), "lambda_t": lambda_t}
    found = explain(sums)
    assert found["cos_g_r"] == pytest.approx(cosine(g, r), rel=1e-12)
    assert found["cos_delta_g"] == pytest.approx(cosine(delta, g), rel=1e-12)
    assert found["cos_delta_r"] == pytest.approx(cosine(delta, r), rel=1e-12)
    # a gradient of nothing has no direction
    nothing = explain(sums | {"dot_gg": 0.0, "dot_gr": 0.0})
    assert (nothing["cos_g_r"], nothing["cos_delta_g"], nothing["cos_delta_r"]) == (0.0, 0.0, pytest.approx(1.0))
    # clipped, δ misses a_t by what is left over
    asked = 4.0 * length**2
    assert "shortfall" not in explain(sums | {"a_t": asked})
    clipped = explain(sums | {"a_t": asked, "clip": 0.25})
    assert 0 < clipped["shortfall"] == pytest.approx(asked - 0.25 * float(g @ delta), rel=1e-12)
    assert explain(sums | {"a_t": 0.01 * asked, "clip": 0.9})["shortfall"] == 0.0
