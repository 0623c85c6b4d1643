"""Which parameters train, by the published architecture of Stable Diffusion 1.x."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.layers import NAMED, chosen

# how many tensors and how many million elements
SD1_COUNTS = {
    "full": (686, 859.52),
    "xattn": (80, 43.96),
    "noxattn": (598, 813.50),
    "selfattn": (80, 49.57),
    "notime": (678, 857.46),
}


@pytest.fixture(scope="module")
def sd1() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=768,
            attention_head_dim=8,
        )


def _trained(unet: UNet2DConditionModel, *layers: str) -> dict[str, int]:
    return {name: value.numel() for name, value in chosen(unet, layers, "train.layers").items()}


@pytest.mark.parametrize("layers", SD1_COUNTS)
def test_layers_by_the_published_architecture(sd1: UNet2DConditionModel, layers: str) -> None:
    found = _trained(sd1, layers)
    assert (len(found), round(sum(found.values()) / 1e6, 2)) == SD1_COUNTS[layers]


def test_layers_of_one_block(sd1: UNet2DConditionModel) -> None:
    # output_blocks.6 and .8, input_blocks.4 and .7 of the original code: five tensors an attention
    cross, own = _trained(sd1, "xlayer"), _trained(sd1, "selflayer")
    place = "transformer_blocks.0"
    parts = ["to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias"]
    assert set(cross) == {f"up_blocks.2.attentions.{i}.{place}.attn2.{part}" for i in (0, 2) for part in parts}
    assert set(own) == {f"down_blocks.{i}.attentions.0.{place}.attn1.{part}" for i in (1, 2) for part in parts}
    assert cross["up_blocks.2.attentions.0.transformer_blocks.0.attn2.to_k.weight"] == 640 * 768


def test_layers_add_up_and_patterns(sd1: UNet2DConditionModel) -> None:
    both = _trained(sd1, "xattn", "conv_in.*")
    assert len(both) == 82 and "conv_in.bias" in both
    with pytest.raises(ConfigError, match=r"train\.layers: 'mid\.\*' names none of the model's 686 parameters; known"):
        chosen(sd1, ["mid.*"], "train.layers")
    assert set(NAMED) == {*SD1_COUNTS, "xlayer", "selflayer"}
