"""What Blindspot unlearning asks of a model and of its objective; its steps are compared in tests/distributed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel
from erasediff.shards import Dataset, Stream
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.methods.blindspot import BlindspotConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.objectives.diffusion import DiffusionBatch, DiffusionObjective
from erasediff.trainer.objectives.objective import Batches
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
    assert now.maps is None, "which would fill a pass's memory"
    assert now.target is not None and not torch.allclose(now.target, expected, atol=1e-2)


@pytest.mark.parametrize("engine", [{}, {"activation_checkpointing": "all", "forward_batch_size": 3}], ids=str)
def test_the_step_is_that_of_the_formula_with_attention_transfer(
    digits: Path, base_model: Path, engine: dict[str, Any]
) -> None:
    """By autograd, P and θ as diffusers' own modules: the step before anything is learnt."""
    alpha, beta = 0.3, 40.0
    config = BlindspotConfig(alpha=alpha, beta=beta, num_proxy_steps=1, proxy_learning_rate=1e-12)
    model = load_model(ModelConfig(str(base_model), null_class=10))
    settings = EngineConfig(device="cpu", **engine)
    collectives.set_up(settings)
    sharded = ShardedModel(
        model.module, settings, OptimizerConfig(), CPU, max_train_steps=1, fresh=lambda: model.fresh_weights(7)
    )
    size = settings.forward_batch_size
    made = DiffusionObjective(model, CPU, seed=5, label_drop=0.0, method=config, forward_batch_size=size)

    def read(step: int) -> Batches:
        streams = [Stream(Dataset.open(digits / "split" / part), seed=0, batch_size=8) for part in ("remain", "forget")]
        return Batches(made.remain_batches(streams[0].batch(step)), made.forget_batches(streams[1].batch(step)), ())

    method = config.make(made)
    method.prepare(sharded, read)
    batches = read(0)
    update = method.step(sharded, batches.forget, batches.remain, 0, diagnose=False)
    found = sharded.gather(update.delta)

    kind: Any = UNet2DModel
    theta = kind.from_pretrained(base_model / "unet")
    torch.manual_seed(7)
    proxy = kind.from_config(kind.load_config(base_model / "unet"))

    def passed(net: Any, batch: DiffusionBatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        maps: list[torch.Tensor] = []

        def note(block: Any, given: Any, output: Any) -> None:
            energy = (output if isinstance(output, torch.Tensor) else output[0]).pow(2).sum(1).flatten(1)
            maps.append(energy / energy.norm(dim=1, keepdim=True))

        hooks = [block.register_forward_hook(note) for block in [*net.down_blocks, net.mid_block, *net.up_blocks]]
        output = net(batch.noised.x_t, batch.noised.timesteps, class_labels=batch.noised.told["class_labels"]).sample
        for hook in hooks:
            hook.remove()
        return output, maps

    loss_r, loss_f, transferred = torch.zeros(3)
    for batch in batches.remain:
        assert batch.target is not None
        loss_r = loss_r + (passed(theta, batch)[0] - batch.target).pow(2).mean((1, 2, 3)).sum() / 8
    for batch in batches.forget:
        with torch.no_grad():
            expected, asked = passed(proxy, batch)
        output, maps = passed(theta, batch)
        far = torch.stack([(a - b).pow(2).mean(1) for a, b in zip(asked, maps, strict=True)]).sum(0)
        transferred = transferred + beta * far.sum() / 8
        loss_f = loss_f + (output - expected).pow(2).mean((1, 2, 3)).sum() / 8
    assert transferred > 0.1 * loss_f  # it is not lost beside the other
    expected_delta = torch.autograd.grad((1 - alpha) * loss_r + alpha * (loss_f + transferred), [*theta.parameters()])
    for (name, _), gradient in zip(theta.named_parameters(), expected_delta, strict=True):
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8, name
    assert float(update.packet["loss_f"]) == pytest.approx((loss_f + transferred).item(), rel=1e-5)


def test_activations_that_cannot_be_compared_are_refused(digits: Path, base_model: Path, tmp_path: Path) -> None:
    method = BlindspotConfig(beta=1.0)
    compiled = tiny_config(digits, base_model, tmp_path / "run", method=method)
    compiled = dataclasses.replace(compiled, engine=dataclasses.replace(compiled.engine, compile=True))
    with pytest.raises(ConfigError, match=r"method\.beta looks at the blocks that engine\.compile compiles"):
        plan(compiled)
    other = SimpleNamespace(module=AutoencoderKL())
    method.check_conditions(load_model(ModelConfig(str(base_model), null_class=10)), [], [])
    with pytest.raises(
        ConfigError, match=r"method\.beta compares the blocks of a U-Net, which a AutoencoderKL does not have"
    ):
        method.check_conditions(other, [], [])


def test_a_module_that_cannot_be_made_anew_is_refused(toy_family: Path, tmp_path: Path) -> None:
    scrub = tiny_config(toy_family, toy_family / "model", tmp_path / "run", null_class=None)
    with pytest.raises(ConfigError, match="how a Denoiser is made from nothing is not known"):
        plan(dataclasses.replace(scrub, method=BlindspotConfig()))


def test_a_plan_says_what_comes_first(digits: Path, base_model: Path, tmp_path: Path) -> None:
    said = dry_run(tiny_config(digits, base_model, tmp_path / "run", method=BlindspotConfig(num_proxy_steps=9)))
    assert "blindspot   9 steps from fresh weights on D_r before the first step" in said
    assert "2 gradients and 1 forward pass without one" in said
