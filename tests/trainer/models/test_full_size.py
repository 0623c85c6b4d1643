"""The published architecture of Stable Diffusion XL, without its weights, passes every check that needs none."""

from __future__ import annotations

import dataclasses
from typing import Any

import diffusers
import pytest
import torch
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig, TrainConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.layers import chosen
from erasediff.trainer.models.model import Model
from erasediff.trainer.run.checks import check_conditions, check_engine, check_optimizer, check_train
from tiny_text import make_xl_pipeline

# whose annotations are narrower than what they take
_LIBRARY: Any = diffusers


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Its U-Net in a pipeline of small parts: stabilityai/stable-diffusion-xl-base-1.0, unet/config.json."""
    small = load_model(ModelConfig(str(make_xl_pipeline(tmp_path_factory.mktemp("xl") / "model"))))
    with torch.device("meta"):
        unet = _LIBRARY.UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            use_linear_projection=True,
        )
    return dataclasses.replace(small, module=unet)


@pytest.mark.parametrize("layers", ["full", "xattn"])
def test_every_check(sdxl: Model, layers: str) -> None:
    # of the config that the model's card calls 2.6 B
    assert sum(value.numel() for value in sdxl.module.parameters()) == 2_567_463_684
    trained = chosen(sdxl.module, [layers], "train.layers")
    # four projections and a bias in each of 70 layers
    assert len(trained) == {"full": 1680, "xattn": 70 * 5}[layers]
    method = EraseDiffConfig(anchor="a blue two", barrier="value")
    train = TrainConfig(layers=(layers,), label_drop=0.1)
    engine = EngineConfig(activation_checkpointing="all", zero_stage=3)
    check_engine(engine, train, sdxl)
    check_train(train, sdxl)
    check_optimizer(OptimizerConfig(), train)
    check_conditions(sdxl, method, ["a red three"], ["a blue two", "a red one"])
    method.check(engine)
    with pytest.raises(ConfigError, match=r"set train\.dataloader_num_workers = 0, or use"):
        check_engine(dataclasses.replace(engine, precision="tf32"), train, sdxl)
    alone = dataclasses.replace(train, dataloader_num_workers=0)
    check_engine(dataclasses.replace(engine, precision="tf32"), alone, sdxl)
    with pytest.raises(ConfigError, match=r"needs buckets that hold every parameter: .* has [0-9,]+ elements"):
        check_engine(dataclasses.replace(engine, reduce_bucket_size=1_000_000), train, sdxl)
