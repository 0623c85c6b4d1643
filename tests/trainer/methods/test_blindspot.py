"""What Blindspot unlearning asks of a model and of its objective; its steps are compared in tests/distributed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from erasediff.shards import Dataset, Stream
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.methods.blindspot import BlindspotConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.objectives.diffusion import DiffusionObjective
from erasediff.trainer.ranks import collectives
from erasediff.trainer.scrubbing import dry_run, plan
from tiny import tiny_config

CPU = torch.device("cpu")


def test_fresh_weights_are_those_that_diffusers_would_make(base_model: Path) -> None:
    model = load_model(ModelConfig(str(base_model), null_class=10))
    before = torch.get_rng_state()
    found, other = model.fresh_weights(3), model.fresh_weights(4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    kind: Any = UNet2DModel
    expected = dict(kind.from_config(kind.load_config(base_model / "unet")).named_parameters())
    assert found.keys() == expected.keys() == dict(model.module.named_parameters()).keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    weight = "conv_in.weight"
    assert not torch.equal(found[weight], other[weight])
    assert not torch.equal(found[weight], model.module.get_parameter(weight))


def test_predictions_are_of_the_weights_that_the_engine_is_at(digits: Path, base_model: Path) -> None:
    """Told what the trained model is told, dropped labels too."""
    model = load_model(ModelConfig(str(base_model), null_class=10))
    made = DiffusionObjective(model, CPU, seed=5, label_drop=0.0, forget_label_drop=0.5, method=BlindspotConfig())
    given = Stream(Dataset.open(digits / "split" / "forget"), seed=0, batch_size=8, dtype="uint8").batch(0)
    (batch,) = made.forget_batches(given)
    torch.manual_seed(7)
    kind: Any = UNet2DModel
    other = kind.from_config(kind.load_config(base_model / "unet"))
    engine = EngineConfig(device="cpu")
    collectives.set_up(engine)
    sharded = ShardedModel(
        model.module, engine, OptimizerConfig(), CPU, max_train_steps=1, fresh=lambda: model.fresh_weights(7)
    )
    with sharded.at(sharded.fresh_weights()):
        (told,) = made.with_predictions(sharded, [batch])
    labels = batch.noised.told["class_labels"]
    assert 0 < (labels == 10).sum() < 8
    with torch.no_grad():
        expected = other(batch.noised.x_t, batch.noised.timesteps, class_labels=labels).sample
    assert told.target is not None and not told.target.requires_grad
    assert torch.allclose(told.target, expected, atol=1e-6)
    (now,) = made.with_predictions(sharded, [batch])
    assert now.target is not None and not torch.allclose(now.target, expected, atol=1e-2)


def test_a_module_that_cannot_be_made_anew_is_refused(toy_family: Path, tmp_path: Path) -> None:
    scrub = tiny_config(toy_family, toy_family / "model", tmp_path / "run", null_class=None)
    with pytest.raises(ConfigError, match="how a Denoiser is made from nothing is not known"):
        plan(dataclasses.replace(scrub, method=BlindspotConfig()))


def test_a_plan_says_what_comes_first(digits: Path, base_model: Path, tmp_path: Path) -> None:
    said = dry_run(tiny_config(digits, base_model, tmp_path / "run", method=BlindspotConfig(num_proxy_steps=9)))
    assert "blindspot   9 steps from fresh weights on D_r before the first step" in said
    assert "2 gradients and 1 forward pass without one" in said
