"""A model made from nothing has the layers that its settings ask for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from erasediff.trainer.config import EngineConfig, PretrainConfig, TrainConfig, UNetConfig
from erasediff.trainer.config.toml import as_dict
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.families import unet2d
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.run.identity import Identity, what_counts
from erasediff.trainer.scrubbing import run_scrub
from tiny import tiny_config
from torch import nn

THREE: dict[str, Any] = {"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "attention_head_dim": 4}


def test_the_papers_model() -> None:
    """google/ddpm-cifar10-32, as published, counts 35,746,307 without classes; a class is 4 · 128 more."""
    config = UNetConfig(
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        attention_resolutions=(16,),
        attention_head_dim=256,
        norm_num_groups=32,
        dropout=0.1,
    )
    with torch.device("meta"):
        module = unet2d.make(config, image_size=32, channels=3, num_classes=10).module
    assert sum(value.numel() for value in module.parameters()) == 35_746_307 + 11 * 512
    # two layers down and three up at 16 pixels, one in the middle, of one head each
    attending = [part for part in module.modules() if isinstance(part, Attention)]
    assert len(attending) == 2 + 3 + 1 and {part.heads for part in attending} == {1}
    dropping = [part.p for part in module.modules() if isinstance(part, nn.Dropout) and part.p]
    # a ResNet layer each: 4 · 2 down, 4 · 3 up, two in the middle
    assert dropping == [0.1] * 22


@pytest.mark.parametrize(
    ("chosen", "sizes"),
    [
        ({}, []),
        ({"attention_resolutions": (4,)}, [4, 2, 4, 4]),
        ({"attention_resolutions": (8, 2)}, [8, 2, 2, 2, 2, 8, 8]),
        ({"attention_blocks": 1}, [2, 2, 2, 2]),
        ({"attention_blocks": 3}, [8, 4, 2, 2, 2, 2, 4, 4, 8, 8]),
    ],
)
def test_attention_is_where_it_is_asked_for(chosen: dict[str, Any], sizes: list[int]) -> None:
    """By the pixels that each layer sees in a pass: down once at each, in the middle at the lowest, up twice."""
    model = unet2d.make(UNetConfig(**THREE, **chosen), image_size=8, channels=1, num_classes=3)
    seen: list[int] = []
    for part in model.module.modules():
        if isinstance(part, Attention):
            part.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))
    with torch.no_grad():
        model.module(torch.zeros(1, 1, 8, 8), 0, class_labels=torch.zeros(1, dtype=torch.int64))
    assert seen == sizes


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"attention_resolutions": (16,)}, "unet.attention_resolutions has 16: .* resolutions are 8, 4, 2"),
        ({"attention_resolutions": (4,), "attention_blocks": 1}, "both say which .*: give one of them"),
        ({"attention_blocks": 4}, "unet.attention_blocks = 4: the model has 3 resolutions"),
        ({"attention_resolutions": (4,), "attention_head_dim": 9}, "= 9: more than the 8 channels of a resolution"),
        (
            {"block_out_channels": (16, 8), "attention_resolutions": (8,), "attention_head_dim": 12},
            "= 12: more than the 8 channels of a resolution with attention, or of the middle block",
        ),
    ],
)
def test_what_cannot_be(chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        unet2d.make(UNetConfig(**THREE | chosen), image_size=8, channels=1, num_classes=3)


def test_a_run_of_before_there_was_a_choice_is_the_same_run() -> None:
    config = PretrainConfig(data="data", output="run", unet=UNetConfig(attention_blocks=1))
    recorded = what_counts(as_dict(config))
    del recorded["unet.attention_resolutions"], recorded["unet.dropout"]
    assert Identity.of(config).differing(recorded) == []
    other = PretrainConfig(data="data", output="run", unet=UNetConfig(attention_resolutions=(4,)))
    assert Identity.of(other).differing(recorded) == ["unet.attention_blocks", "unet.attention_resolutions"]


def test_dropout_outlives_a_kill(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def config(name: str, dropout: float, parts: int | None = None) -> PretrainConfig:
        return PretrainConfig(
            data=str(digits / "data"),
            output=str(tmp_path / name),
            unet=UNetConfig(block_out_channels=(8, 8), norm_num_groups=4, dropout=dropout),
            train=TrainConfig(max_train_steps=4, train_batch_size=4, checkpointing_steps=2),
            engine=EngineConfig(device="cpu", forward_batch_size=parts),
        )

    class Killed(Exception):
        pass

    def kill(step: int, model: ShardedModel) -> None:
        # what the gradient of the step before was drawn by
        assert model._dropout.step == max(0, step - 1)  # pyright: ignore[reportPrivateUsage]
        if step == 3:
            raise Killed

    def weights(folder: Path) -> bytes:
        return (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()

    whole, without = (run_pretrain(config(f"whole-{dropout}", dropout)) for dropout in (0.3, 0.0))
    with pytest.raises(Killed):
        run_pretrain(config("killed", 0.3), watch=kill)
    shutil.copytree(tmp_path / "killed", tmp_path / "otherwise")
    assert weights(run_pretrain(config("killed", 0.3))) == weights(whole)
    assert "continues from attempt-0001/checkpoint-000002" in capsys.readouterr().err
    assert weights(whole) != weights(without)
    # in other micro-batches other things are dropped
    settings = tmp_path / "otherwise" / "config.toml"
    settings.write_text(settings.read_text().replace(str(tmp_path / "killed"), str(tmp_path / "otherwise")))
    capsys.readouterr()
    assert weights(run_pretrain(config("otherwise", 0.3, parts=2))) != weights(whole)
    told = "engine.forward_batch_size = 2 here, none in attempt-0001: with dropout, another model"
    assert told in capsys.readouterr().err


def test_a_scrub_of_a_model_with_dropout_has_none(digits: Path, base_model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(base_model, tmp_path / "other")
    settings = other / "unet" / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"dropout": 0.5}))
    scrubbed = [run_scrub(tiny_config(digits, model, tmp_path / model.parent.name)) for model in (base_model, other)]
    files = [folder / "unet" / "diffusion_pytorch_model.safetensors" for folder in scrubbed]
    assert files[0].read_bytes() == files[1].read_bytes()
