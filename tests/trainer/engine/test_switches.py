"""What makes a pass faster changes its result by rounding alone; the reference is the same engine without it.

torch.compile takes minutes for a model on a CPU: what it computes is compared on a GPU (tests/gpu).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny
import torch
from erasediff.trainer.config import EngineConfig, OptimizerConfig
from erasediff.trainer.engine.recomputing import Recomputing
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.engine.switches import blocks_of
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.ranks import collectives
from erasediff.trainer.scrubbing import check
from torch import Tensor, nn

# whose annotations are narrower than what they take
_LIBRARY: Any = diffusers
CPU = torch.device("cpu")


def unet() -> nn.Module:
    torch.manual_seed(0)
    return _LIBRARY.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
        cross_attention_dim=12,
    )


@dataclass(frozen=True)
class Batch:
    weights: Tensor
    x: Tensor
    told: Tensor


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(torch.ones(2), torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 12, generator=generator))
    ]


def loss(model: ShardedModel, batch: Batch) -> Tensor:
    output = model.predict(batch.x, torch.tensor([3, 700]), batch.told, return_dict=False)[0]
    return output.square().flatten(1).mean(1)


def make(module: nn.Module, **engine: Any) -> ShardedModel:
    config = EngineConfig(device="cpu", **engine)
    return ShardedModel(module, config, OptimizerConfig(), collectives.set_up(config), max_train_steps=1)


def gradient(module: nn.Module, **engine: Any) -> dict[str, Tensor]:
    model = make(module, **engine)
    return model.gather(model.gradient(loss, batches())[1])


@pytest.mark.parametrize(
    "engine", [{"channels_last": True}, {"activation_checkpointing": "all", "activation_checkpointing_share": 0.5}]
)
def test_the_gradient_is_the_same_to_rounding(engine: dict[str, Any]) -> None:
    found, expected = gradient(unet(), **engine), gradient(unet())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 2e-6 * value.norm() + 1e-7, name


def test_every_convolution_reads_channels_last() -> None:
    for channels_last in (False, True):
        module = unet()
        model = make(module, channels_last=channels_last)
        seen: list[bool] = []

        def note(_: nn.Module, given: Any, output: Any, seen: list[bool] = seen) -> None:
            seen.append(all(x.is_contiguous(memory_format=torch.channels_last) for x in (given[0], output)))

        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(note)
        model.loss(loss, batches())
        assert len(seen) == 33 and all(seen) == channels_last


class Noting(nn.Module):
    """A product that notes, forward and backward, whether TF32 is on in matrix products and in convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.seen: list[tuple[Any, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self._note("forward")
        output = x * self.weight
        if output.requires_grad:
            output.register_hook(lambda _: self._note("backward"))
        return output

    def _note(self, what: str) -> None:
        self.seen.append((what, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))


@contextmanager
def tf32_outside(on: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (on, on)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize(("precision", "on"), [("fp32", False), ("tf32", True), ("bf16-autocast", False)])
def test_tf32_is_on_in_passes_that_may_be_rounded_alone(precision: Any, on: bool, outside: bool) -> None:
    module = Noting()
    model = make(module, precision=precision)
    batch: Any = [Batch(torch.ones(2), torch.ones(2, 3), torch.ones(1))]

    def of(model: ShardedModel, batch: Batch) -> Tensor:
        return model.predict(batch.x).square().sum(1)

    with tf32_outside(outside):
        for exact in (False, True):
            model.gradient(of, batch, exact=exact)
            with model.displaced(model.theta, 0.1):
                model.loss(of, batch, exact=exact)
        model.predict(batch[0].x)
    assert model.rounds_passes == (precision != "fp32")
    rounded, exact = (on, on), (False, False)
    passes = ["forward", "backward", "forward"]
    expected = [(what, *rounded) for what in passes] + [(what, *exact) for what in passes]
    assert module.seen == [*expected, ("forward", *rounded)]


def test_a_share_of_the_blocks_is_the_lightest_ones() -> None:
    weights: dict[float, list[int]] = {}
    for share in (0.0, 0.5, 1.0):
        module = unet()
        with Recomputing(module, "all", share=share).at(inner=False):
            on = [part for part in module.modules() if getattr(part, "gradient_checkpointing", False)]
        weights[share] = [sum(value.numel() for value in part.parameters()) for part in on]
        assert not any(getattr(part, "gradient_checkpointing", False) for part in module.modules())
    # 4 blocks of a U-Net, its middle, and a transformer in each of three
    assert [len(found) for found in weights.values()] == [0, 5, 9]
    assert max(weights[0.5]) <= sorted(weights[1.0])[4]


def test_the_repeated_blocks_are_compiled_and_none_inside_another() -> None:
    module = unet()
    make(module, compile=True)
    compiled = [part for part in module.modules() if part._compiled_call_impl is not None]
    assert compiled == blocks_of(module)
    kinds = [type(part).__name__ for part in compiled]
    assert {kind: kinds.count(kind) for kind in kinds} == {"ResnetBlock2D": 8, "BasicTransformerBlock": 4}
    dynamo: Any = torch._dynamo
    assert dynamo.config.recompile_limit >= 8 * 4, "blocks of the same class share a limit, by shape and kind of pass"


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"^engine.compile on a CPU needs a C\+\+ compiler, and no-such-compiler is"):
        make(unet(), compile=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"compile": True, "zero_stage": 3}, "engine.compile is for whole weights, and engine.zero_stage = 3 gathers"),
        ({"compile": True, "deterministic": True}, "engine.compile times kernels and takes the fastest, which another"),
        (
            {"cudnn_benchmark": True, "deterministic": True},
            "engine.cudnn_benchmark times kernels and takes the",
        ),
        ({"attention": "flash", "precision": "tf32"}, "engine.attention = 'flash' computes in bf16: set engine.precis"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        EngineConfig(**settings)


def test_a_model_without_repeated_blocks_is_refused_before_a_run(
    digits: Path, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.tiny_config(digits, base_model, tmp_path / "run", engine=EngineConfig(device="cpu", compile=True))
    check(config)
    monkeypatch.setattr("erasediff.trainer.engine.switches._BLOCKS", frozenset())
    with pytest.raises(ConfigError, match=r"^engine.compile: a UNet2DModel has no blocks that are known to repeat"):
        check(config)
