"""Tiny real models and data that tests scrub."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from erasediff.shards import build, split
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig, MethodConfig, ModelConfig, OptimizerConfig, ScrubConfig, TrainConfig

NULL_CLASS = 10
# of a step's log, what is another run's in the same run
TIMING = ("seconds", "samples_per_second", "peak_bytes")


def make_pipeline(
    folder: Path,
    *,
    num_classes: int | None = 11,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    channels: int = 1,
    size: int = 8,
    seed: int = 1,
) -> Path:
    """A random UNet2DModel saved by diffusers alone."""
    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
        num_class_embeds=num_classes,
    )
    scheduler = DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction_type)
    DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)
    return folder


def make_digits(folder: Path) -> Path:
    """Data in folder/data; folder/split holds the 3s as forget and the rest as remain."""
    build("digits", folder / "data")
    split(folder / "data", folder / "split", ["3"])
    return folder


def tiny_config(
    digits: Path,
    model: Path,
    output: Path,
    *,
    method: MethodConfig | None = None,
    null_class: int | None = NULL_CLASS,
    train: TrainConfig | None = None,
    optimizer: OptimizerConfig | None = None,
    engine: EngineConfig | None = None,
) -> ScrubConfig:
    """A scrub of a few steps."""
    return ScrubConfig(
        model=ModelConfig(path=str(model), null_class=null_class),
        forget=str(digits / "split" / "forget"),
        remain=str(digits / "split" / "remain"),
        output=str(output),
        method=method or EraseDiffConfig(),
        train=train or TrainConfig(max_train_steps=3, train_batch_size=4, descent_every=2),
        optimizer=optimizer or OptimizerConfig(),
        engine=engine or EngineConfig(device="cpu"),
    )
