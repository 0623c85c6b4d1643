"""Floating-point operations against a count by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from erasediff.trainer.bench.flops import Flops, count, peak
from erasediff.trainer.config import ModelConfig
from erasediff.trainer.config.cost import Cost
from erasediff.trainer.models.families import outline_model
from erasediff.trainer.models.layers import train_only
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

# whose annotations are narrower than what they take
_LIBRARY: Any = diffusers


def test_a_block_by_hand() -> None:
    """GroupNorm, 3×3 from 8 to 16 channels, a linear layer of the timestep, 3×3 from 16 to 16, and 1×1 from 8 to 16."""
    with torch.device("meta"):
        block = ResnetBlock2D(in_channels=8, out_channels=16, temb_channels=32, groups=4)
        x, temb = torch.empty(1, 8, 10, 10, requires_grad=True), torch.empty(1, 32, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            output = block(x, temb)
            forward = counter.get_total_flops()
            output.sum().backward()
    pixels = 10 * 10
    by_hand = 2 * (pixels * 8 * 16 * 9 + 32 * 16 + pixels * 16 * 16 * 9 + pixels * 8 * 16)
    assert forward == by_hand
    # each product once more for its input and once more for its weights
    assert counter.get_total_flops() - forward == 2 * by_hand


def products(module: nn.Module, run: Any) -> int:
    """Twice the multiplications of all layers in one forward pass; attention's own are the caller's to add."""
    total = 0

    def add(layer: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight: Tensor = layer.weight
        total += 2 * output.numel() * weight[0].numel()

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    run()
    return total


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    unet = _LIBRARY.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=4,
        num_class_embeds=11,
    )
    _LIBRARY.DDPMPipeline(unet=unet, scheduler=_LIBRARY.DDPMScheduler()).save_pretrained(tmp_path / "model")
    for weights in (tmp_path / "model").rglob("*.safetensors"):
        weights.unlink()
    return tmp_path / "model"


def test_a_whole_model_by_its_layers(folder: Path) -> None:
    model = outline_model(ModelConfig(str(folder), null_class=10))
    found = count(model)
    x, t, told = model.blank_pass(1)
    of_layers = products(model.module, lambda: model.predict(model.module, x, t, told))
    # attention at 4 × 4 pixels of 16 channels: twice QKᵀ and the sum over values; in 1 + 2 blocks and the middle
    attention = 4 * 2 * 2 * 16 * 16 * 16
    assert found.forward == of_layers + attention
    # the first convolution's input and the timestep's embedding need no gradient
    first = 2 * 8 * 9 * 8 * 8 + 2 * 8 * 32
    assert found.backward == 2 * found.forward - first


def test_frozen_weights_need_no_gradient(folder: Path) -> None:
    model = outline_model(ModelConfig(str(folder), null_class=10))
    whole = count(model)
    train_only(model.module, ["conv_out.*"], "layers")
    assert count(model) == Flops(whole.forward, 2 * 8 * 9 * 8 * 8)


def test_an_iterations() -> None:
    assert Flops(10, 25).of_passes(Cost(gradients=3, forwards=2)) == 3 * 35 + 2 * 10


def test_a_peak_is_that_of_the_device_and_the_arithmetic() -> None:
    assert peak("NVIDIA A100-SXM4-80GB", "bf16-autocast") == 312e12
    assert peak("NVIDIA A100-SXM4-80GB", "tf32") == 156e12
    assert peak("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak("NVIDIA H100 80GB HBM3", "fp32") == 67e12
    assert peak("cpu", "fp32") is None
