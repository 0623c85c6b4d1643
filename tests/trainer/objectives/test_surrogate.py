"""Selective Amnesia's part of the objective: noise in place of D_f's pictures, and samples one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from erasediff.shards import Dataset, SampleBatch, Stream
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.methods.selective_amnesia import SelectiveAmnesiaConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.objectives.diffusion import DiffusionObjective
from erasediff.trainer.objectives.targets.surrogate import Target
from erasediff.trainer.ranks import collectives
from tiny import make_pipeline
from tiny_text import make_pipeline as make_text_pipeline

CPU = torch.device("cpu")
METHOD = SelectiveAmnesiaConfig()


def objective(folder: Path, null_class: int | None = 10, **options: Any) -> DiffusionObjective:
    model = load_model(ModelConfig(str(folder), null_class=null_class))
    return DiffusionObjective(model, CPU, seed=5, label_drop=0.0, method=METHOD, **options)


def samples(digits: Path, side: str, batch_size: int) -> SampleBatch:
    return Stream(Dataset.open(digits / "split" / side), seed=0, batch_size=batch_size).batch(0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_forgotten_pictures_are_uniform_noise(digits: Path, tmp_path: Path, prediction_type: Any) -> None:
    made = objective(make_pipeline(tmp_path / "model", prediction_type=prediction_type), forget_label_drop=0.3)
    given = samples(digits, "forget", 300)
    (before,) = made.forget_batches(given)
    (batch,) = made.with_forget_targets(None, [before])  # pyright: ignore[reportArgumentType]
    scheduler: Any = DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction_type)
    x_0, epsilon, t = batch.noised.x_0, batch.noised.epsilon, batch.noised.timesteps
    values = np.sort(x_0.numpy().ravel())
    assert values[0] >= -1 and values[-1] < 1
    # Kolmogorov's distance to U(-1, 1): 1.63/√n at the 1 % level
    assert np.abs(values - np.linspace(-1, 1, len(values))).max() / 2 < 1.63 / len(values) ** 0.5
    assert torch.allclose(batch.noised.x_t, scheduler.add_noise(x_0, epsilon, t), atol=1e-6)
    expected = epsilon if prediction_type == "epsilon" else scheduler.get_velocity(x_0, epsilon, t)
    assert batch.target is not None and torch.allclose(batch.target, expected, atol=1e-6)
    # what is drawn for a sample, and what it is told, stays
    assert torch.equal(t, before.noised.timesteps) and torch.equal(epsilon, before.noised.epsilon)
    assert batch.noised.told is before.noised.told
    # what training on D_f was is of the pictures
    (own,) = made.with_own_targets([before])
    pictures = torch.from_numpy(given.images)
    assert torch.allclose(own.noised.x_t, scheduler.add_noise(pictures, epsilon, t), atol=1e-6)


def test_models_of_latents_and_without_conditions_are_refused(tmp_path: Path) -> None:
    unconditional = load_model(ModelConfig(str(make_pipeline(tmp_path / "u", num_classes=None))))
    with pytest.raises(ConfigError, match=r"unconditional: use method\.target = 'noise'"):
        METHOD.check_conditions(unconditional, [None], [None])
    latents = load_model(ModelConfig(str(make_text_pipeline(tmp_path / "t"))))
    with pytest.raises(ConfigError, match=r"works on latents: use method.target = 'rl' with a method.anchor"):
        Target.check(METHOD, latents, ["a three"], ["a two"])


def test_samples_one_by_one(digits: Path, base_model: Path) -> None:
    """At evenly spread timesteps, told what they are, whatever the micro-batches are that they come in."""
    found = {}
    for size in (None, 3):
        made = objective(base_model, forward_batch_size=size)
        batches = made.remain_batches(samples(digits, "remain", 5))
        batches[0].weights[1] = 0
        for batch, alone in zip(range(5), made.one_by_one(batches, 4), strict=True):
            assert [len(one.weights) for one in alone] == ([4] if size is None else [3, 1])
            joined = {
                name: torch.cat([getattr(one.noised, name) for one in alone])
                for name in ("x_0", "epsilon", "x_t", "timesteps")
            }
            joined |= {
                "weights": torch.cat([one.weights for one in alone]),
                "target": torch.cat([one.target for one in alone if one.target is not None]),
                "told": torch.cat([one.noised.told["class_labels"] for one in alone]),
            }
            found[size, batch] = joined
    given = samples(digits, "remain", 5)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    for i in range(5):
        one, cut = found[None, i], found[3, i]
        assert all(torch.equal(one[name], cut[name]) for name in one)
        assert one["timesteps"].tolist() == [125, 375, 625, 875]
        assert torch.equal(one["x_0"], torch.from_numpy(given.images[i]).expand(4, -1, -1, -1))
        expected: Any = scheduler.add_noise(one["x_0"], one["epsilon"], one["timesteps"])
        assert torch.allclose(one["x_t"], expected, atol=1e-6) and torch.equal(one["target"], one["epsilon"])
        assert one["told"].tolist() == [int(given.labels[i])] * 4 and one["weights"].tolist() == [float(i != 1)] * 4
        assert abs(one["epsilon"].std() - 1) < 0.2
    assert not torch.equal(found[None, 0]["epsilon"], found[None, 1]["epsilon"])


def test_a_current_teacher_stays_current_where_the_original_is_kept(digits: Path, base_model: Path) -> None:
    """It is kept for the penalty."""
    model = load_model(ModelConfig(str(base_model), null_class=10))
    method = SelectiveAmnesiaConfig(target="rl", anchor=7)
    made = DiffusionObjective(model, CPU, seed=5, label_drop=0.0, method=method, others=[7])
    engine = EngineConfig(device="cpu")
    collectives.set_up(engine)
    sharded = ShardedModel(model.module, engine, OptimizerConfig(), CPU, max_train_steps=1, keep_original=True)
    sharded.theta.data.mul_(1.1)
    (batch,) = made.with_forget_targets(sharded, made.forget_batches(samples(digits, "forget", 4)))
    with torch.no_grad():
        told = {"class_labels": torch.full((4,), 7)}
        expected = sharded.predict(batch.noised.x_t, batch.noised.timesteps, **told, return_dict=False)[0]
    assert batch.target is not None and torch.equal(batch.target, expected)
