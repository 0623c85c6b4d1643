"""The target `neighbours` against its formula in float64 on diffusers' noise schedule, and whole scrubs with it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from erasediff.shards import Dataset, Stream
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import ModelConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.families import load_model
from erasediff.trainer.objectives.diffusion import DiffusionBatch, DiffusionObjective
from erasediff.trainer.objectives.targets import Samples
from erasediff.trainer.objectives.targets.neighbours import _groups
from erasediff.trainer.scrubbing import dry_run, run_scrub
from tiny import make_pipeline, tiny_config

CPU = torch.device("cpu")
NUM_NEIGHBOURS = 4


def some(digits: Path, side: str, count: int) -> Dataset:
    data = Dataset.open(digits / "split" / side)
    return data.only(np.arange(len(data)) < count)


def forget_batch(model: Any, forget: Dataset, remain: Dataset, folder: Path) -> DiffusionBatch:
    method = EraseDiffConfig(target="neighbours", num_neighbours=NUM_NEIGHBOURS)
    made = DiffusionObjective(
        model, CPU, seed=5, label_drop=0.0, method=method, others=[1, 2], samples=Samples(forget, remain, folder)
    )
    stream = Stream(forget, seed=0, batch_size=64, image_size=model.image_size, channels=model.channels)
    (batch,) = made.with_forget_targets(None, made.forget_batches(stream.batch(0)))  # pyright: ignore[reportArgumentType]
    return batch


def pictures(data: Dataset) -> torch.Tensor:
    """x_0 of each sample, fp64, as pixels."""
    images = np.stack([data.read(i).image[..., 0] for i in range(len(data))])
    return torch.from_numpy(images).double()[:, None] / 127.5 - 1


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_target_is_the_papers(digits: Path, tmp_path: Path, prediction_type: Any) -> None:
    """And its loss has the gradient of theirs, Σ_k w_k ‖ε_k - ε_θ‖², by autograd."""
    model = load_model(ModelConfig(str(make_pipeline(tmp_path / "m", prediction_type=prediction_type)), null_class=10))
    forget, remain = some(digits, "forget", 9), some(digits, "remain", 200)
    batch = forget_batch(model, forget, remain, tmp_path)
    noised, scheduler = batch.noised, DDPMScheduler(num_train_timesteps=1000)
    x_t, others = noised.x_t.double(), pictures(remain)
    gamma = scheduler.alphas_cumprod[noised.timesteps].double().sqrt().view(-1, 1, 1, 1)
    sigma = (1 - scheduler.alphas_cumprod[noised.timesteps].double()).sqrt().view(-1, 1, 1, 1)
    assert batch.target is not None
    output = torch.randn(x_t.shape, dtype=torch.float64, requires_grad=True)
    theirs, several = torch.zeros(()).double(), 0
    for i in range(len(x_t)):
        nearest = (others - noised.x_0[i].double()).square().flatten(1).sum(1).topk(NUM_NEIGHBOURS, largest=False)
        x_k = others[nearest.indices]
        epsilon_k = (x_t[i] - gamma[i] * x_k) / sigma[i]
        weights = torch.softmax(-0.5 * epsilon_k.square().flatten(1).sum(1), 0).view(-1, 1, 1, 1)
        several += int(weights.max() < 0.9)
        wanted = epsilon_k if prediction_type == "epsilon" else gamma[i] * epsilon_k - sigma[i] * x_k
        theirs = theirs + (weights * (wanted - output[i]).square()).sum()
        expected = (weights * wanted).sum(0)
        # t = 0 divides rounding by σ = .01
        assert (batch.target[i].double() - expected).abs().max() < 2e-4
    assert 0 < several < len(x_t), "weights of one neighbour, and of several"
    (expected_gradient,) = torch.autograd.grad(theirs, output)
    (gradient,) = torch.autograd.grad((batch.target.double() - output).square().sum(), output)
    assert (gradient - expected_gradient).abs().max() < 1e-3


def test_neighbours_are_told_what_the_sample_is_told(digits: Path, base_model: Path, tmp_path: Path) -> None:
    """Of a sample whose class remains; at t so early that the nearest alone decides."""
    model = load_model(ModelConfig(str(base_model), null_class=10))
    data = some(digits, "remain", 400)
    first = np.flatnonzero(data.labels == 8)[:20]
    rows = np.isin(np.arange(len(data)), first)
    forget, remain = data.only(rows), data.only(~rows)
    batch = forget_batch(model, forget, remain, tmp_path)
    (file,) = tmp_path.glob("neighbours-*.npy")
    found = np.load(file)
    assert found.shape == (20, NUM_NEIGHBOURS) and (remain.labels[found] == 8).all()
    others = pictures(remain)
    everywhere = (pictures(forget)[:, None] - others).square().flatten(2).sum(2).topk(NUM_NEIGHBOURS, largest=False)
    assert (remain.labels[everywhere.indices] != 8).any()
    # each row of the batch has its own sample's neighbours
    sigma = (1 - DDPMScheduler().alphas_cumprod[batch.noised.timesteps]).sqrt()
    early = torch.nonzero(sigma < 0.2).flatten().tolist()
    assert len({batch.noised.keys[i] for i in early}) > 1 and batch.target is not None
    gamma = (1 - sigma**2).sqrt()
    for i in early:
        x_hat = (batch.noised.x_t[i] - sigma[i] * batch.target[i]) / gamma[i]
        near = others[found[forget.keys.index(batch.noised.keys[int(i)])]].float()
        assert (near - x_hat).abs().flatten(1).max(1).values.min() < 0.05


def test_a_scrub_finds_them_once(digits: Path, base_model: Path, tmp_path: Path) -> None:
    method = EraseDiffConfig(target="neighbours", num_neighbours=3)
    config = tiny_config(digits, base_model, tmp_path / "run", method=method)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, checkpointing_steps=1))

    def stop(step: int, _: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_scrub(config, watch=stop)
    (file,) = (tmp_path / "run").glob("neighbours-*.npy")
    assert np.load(file).shape == (len(Dataset.open(config.forget)), 3)
    before, content = file.stat().st_mtime_ns, file.read_bytes()
    file.write_bytes(content[:-8])
    with pytest.raises(ConfigError, match=r"neighbours-.*\.npy: damaged: remove it"):
        run_scrub(config)
    file.write_bytes(content)
    before = file.stat().st_mtime_ns
    run_scrub(config)
    assert file.stat().st_mtime_ns == before
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(line["loss_f"] > 0 for line in lines)


def test_a_plan_says_what_has_no_effect(digits: Path, base_model: Path, tmp_path: Path) -> None:
    told = dry_run(tiny_config(digits, base_model, tmp_path / "run", method=EraseDiffConfig(num_neighbours=7)))
    assert "method.num_neighbours" in told and "method.target is another" in told
    method = EraseDiffConfig(target="neighbours", teacher="frozen")
    told = dry_run(tiny_config(digits, base_model, tmp_path / "run", method=method))
    assert "the neighbours target asks no model for a prediction" in told


def test_prompts_that_are_told_alike_are_one_group(toy_family: Path) -> None:
    model = load_model(ModelConfig(str(toy_family / "model")))
    forget, remain = (Dataset.open(toy_family / "split" / name) for name in ("forget", "remain"))
    samples = Samples(forget.captioned("A Three"), remain.captioned("a  three"), toy_family)
    assert {number for group in _groups(samples, model) for number in group.tolist()} == {0}
    samples = Samples(forget.captioned("A Three"), remain.captioned("a three more"), toy_family)
    assert [{*group.tolist()} for group in _groups(samples, model)] == [{0}, {1}]
