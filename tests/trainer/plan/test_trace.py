"""What a pass keeps, holds at most and computes: traced on `meta`, beside the same pass run, and counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from erasediff.trainer.config import UNetConfig
from erasediff.trainer.models.families.unet2d import make
from erasediff.trainer.models.model import Model
from erasediff.trainer.plan.trace import Trace, trace_forward, trace_gradient
from held import Held
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

NUM_SAMPLES = 5
SIZE, CHANNELS = 8, 8


def model(device: str, *, layers_per_block: int = 1) -> Model:
    """With convolutions, attention, normalisation and a class embedding."""
    torch.manual_seed(0)
    config = UNetConfig(
        block_out_channels=(CHANNELS,), layers_per_block=layers_per_block, attention_blocks=1, norm_num_groups=4
    )
    with torch.device(device):
        return make(config, image_size=SIZE, channels=1, num_classes=10)


def storages(values: list[Tensor]) -> dict[int, int]:
    return {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in values}


def loss_of(model: Model, precision: str) -> Callable[[], Tensor]:
    """A loss of some samples, on the CPU, in the engine's arithmetic."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    nn.Module.to(model.module, dtype)
    x_t, target = torch.randn(2, NUM_SAMPLES, *model.latent_shape)
    told = model.told([3] * NUM_SAMPLES, torch.device("cpu"))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-autocast", cache_enabled=False)

    def forward(*args: Any, **kwargs: Any) -> Any:
        with autocast:
            return model.module(*args, **kwargs)

    def loss() -> Tensor:
        output = model.predict(forward, x_t, torch.zeros(NUM_SAMPLES, dtype=torch.int64), told, dtype)
        return (target - output).square().flatten(1).mean(1).sum()

    return loss


def traced(precision: str, *, recomputed: float = 0.0) -> Trace:
    return trace_gradient(model("meta"), precision, recomputed=recomputed, on_cpu=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-autocast"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_what_is_kept_for_the_backward_pass_is_what_autograd_saves(precision: str, recomputes: bool) -> None:
    whole = model("cpu")
    loss = loss_of(whole, precision)
    module: Any = whole.module
    if recomputes:
        module.enable_gradient_checkpointing()
    saved: list[Tensor] = []

    def note(value: Tensor) -> Tensor:
        saved.append(value)
        return value

    with saved_tensors_hooks(note, lambda value: value):
        made = loss()
    given = storages([*module.parameters(), *module.buffers()])
    expected = sum(size for place, size in storages(saved).items() if place not in given)
    trace = traced(precision, recomputed=float(recomputes))
    found = trace.held(NUM_SAMPLES)[trace.num_forward - 1]
    # traced are also the loss, the output in the pass's type, and what autograd keeps of shapes alone
    assert made.ndim == 0
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-autocast"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_the_most_that_a_gradient_holds_is_what_it_holds(precision: str, recomputes: bool) -> None:
    whole = model("cpu")
    loss = loss_of(whole, precision)
    module: Any = whole.module
    if recomputes:
        module.enable_gradient_checkpointing()

    def taken(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in module.parameters():
        parameter.register_post_accumulate_grad_hook(taken)
    with Held() as held:
        loss().backward()
    found = traced(precision, recomputed=float(recomputes)).held(NUM_SAMPLES).max()
    assert found == pytest.approx(held.peak, rel=0.03)


def test_a_forward_pass_alone_holds_less() -> None:
    whole = model("cpu")
    loss = loss_of(whole, "fp32")
    with torch.no_grad(), Held() as held:
        loss()
    found = trace_forward(model("meta"), "fp32", on_cpu=True).held(NUM_SAMPLES).max()
    assert found == pytest.approx(held.peak, rel=0.03)
    assert found < 0.5 * traced("fp32").held(NUM_SAMPLES).max()


def test_each_gradient_arrives_once() -> None:
    trace = traced("fp32")
    num_trained = len([*model("meta").module.parameters()])
    assert sorted(number for _, number in trace.arrivals) == list(range(num_trained))
    events = [event for event, _ in trace.arrivals]
    assert events == sorted(events)
    # and is gone once it has: the loss alone is left
    assert trace.fixed[-1] == 4
    assert trace.num_forward < events[0] <= events[-1] < len(trace.fixed)


def counted(*, recomputes: bool) -> tuple[int, int]:
    """Of a forward and a backward pass on the CPU, by torch's counter, which has no formula there for attention."""
    whole = model("cpu")
    module: Any = whole.module
    if recomputes:
        module.enable_gradient_checkpointing()
    loss, counter = loss_of(whole, "fp32"), FlopCounterMode(display=False)
    with counter:
        made = loss()
    forward = counter.get_total_flops()
    with counter:
        made.backward()
    return forward, counter.get_total_flops()


def test_operations_are_those_of_torchs_counter() -> None:
    forward, backward = counted(recomputes=False)
    trace = traced("fp32")
    # attention is two products of L × L × C, and in the backward pass five; its blocks keep it
    product = 2 * SIZE**4 * CHANNELS
    num_products = NUM_SAMPLES * len([part for part in model("meta").module.modules() if is_attention(part)])
    assert NUM_SAMPLES * trace.forward_flops == forward + 2 * num_products * product
    assert NUM_SAMPLES * trace.backward_flops == backward + 5 * num_products * product
    _, with_again = counted(recomputes=True)
    again = traced("fp32", recomputed=1.0)
    assert NUM_SAMPLES * (again.backward_flops - trace.backward_flops) == with_again - backward > 0


def is_attention(part: nn.Module) -> bool:
    return type(part).__name__ == "Attention"


def test_operations_of_a_layer_are_those_counted_by_hand() -> None:
    """A layer more in each block: a ResNet layer and an attention layer on the way down, and on the way up."""
    few, more = (trace_forward(model("meta", layers_per_block=n), "fp32", on_cpu=True).forward_flops for n in (1, 2))
    pixels, width = SIZE * SIZE, CHANNELS

    def conv(inputs: int, outputs: int, side: int) -> int:
        return 2 * inputs * outputs * side**2 * pixels

    def resnet(inputs: int) -> int:
        time_embedding = 2 * 4 * width * width
        shortcut = conv(inputs, width, 1) if inputs != width else 0
        return conv(inputs, width, 3) + conv(width, width, 3) + time_embedding + shortcut

    attention = 4 * (2 * pixels * width * width) + 2 * (2 * pixels * pixels * width)
    assert more - few == resnet(width) + resnet(2 * width) + 2 * attention


def test_a_share_of_the_blocks_makes_its_activations_again() -> None:
    kept = [traced("fp32", recomputed=share).held(NUM_SAMPLES).max() for share in (0.0, 0.5, 1.0)]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 3
