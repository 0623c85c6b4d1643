"""The chosen kernels compute every attention layer in every pass; the reference is diffusers' own processor.

On a CPU the dispatcher has torch's kernels, by name: its plain arithmetic stands for a backend that is not the default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny
import torch
from erasediff.trainer.config import EngineConfig, OptimizerConfig
from erasediff.trainer.engine.attention import check_attention, set_attention
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.ranks import collectives
from erasediff.trainer.scrubbing import check, dry_run
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# whose annotations are narrower than what they take
_LIBRARY: Any = diffusers
PLAIN = "_native_math"
CPU = torch.device("cpu")


def told_a_prompt() -> nn.Module:
    """Self- and cross-attention: 8 layers."""
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


def on_pixels(head_dim: int = 4) -> nn.Module:
    """Attention over pictures, normalised and added to what came in."""
    torch.manual_seed(0)
    return _LIBRARY.UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=head_dim,
        norm_num_groups=4,
    )


@dataclass(frozen=True)
class Batch:
    weights: Tensor
    x: Tensor
    told: tuple[Tensor, ...]


def batch_for(module: nn.Module) -> Batch:
    generator = torch.Generator().manual_seed(1)
    told = (torch.randn(2, 5, 12, generator=generator),) if "Condition" in type(module).__name__ else ()
    return Batch(torch.ones(2), torch.randn(2, 4, 8, 8, generator=generator), told)


def loss(model: ShardedModel, batch: Batch) -> Tensor:
    return model.predict(batch.x, torch.tensor([3, 700]), *batch.told, return_dict=False)[0].square().flatten(1).mean(1)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    batch = batch_for(module)
    output = module(batch.x, torch.tensor([3, 700]), *batch.told).sample
    output.square().mean().backward()
    return {"output": output} | {
        name: value.grad for name, value in module.named_parameters() if value.grad is not None
    }


class Counting(TorchDispatchMode):
    """How often torch's attention kernel ran, and how often its plain arithmetic, which alone takes a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = {"fused": 0, "plain": 0}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts["fused"] += name == "_scaled_dot_product_flash_attention_for_cpu"
        self.counts["plain"] += name in ("_softmax", "_safe_softmax")
        return func(*args, **(kwargs or {}))


def num_runs(do: Callable[[], object]) -> dict[str, int]:
    with Counting() as counting:
        do()
    return counting.counts


@pytest.mark.parametrize("make", [told_a_prompt, on_pixels])
# flash takes no fp32: such passes stay native
@pytest.mark.parametrize("backend", [PLAIN, "flash"])
def test_it_computes_what_diffusers_does(make: Callable[[], nn.Module], backend: str) -> None:
    ours, theirs = make(), make()
    set_attention(ours, backend)
    found, expected = gradients(ours), gradients(theirs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 2e-6 * value.norm() + 1e-7, name


def test_flash_is_asked_in_bf16() -> None:
    if find_spec("flash_attn") is not None:
        pytest.skip("it is here, and would run")
    module = told_a_prompt().bfloat16()
    batch = batch_for(module)
    set_attention(module, "flash")
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):  # diffusers has None in its place
        module(batch.x.bfloat16(), torch.tensor([3, 700]), *(told.bfloat16() for told in batch.told))


def test_every_layer_in_every_pass() -> None:
    collectives.set_up(EngineConfig(device="cpu"))

    def model(backend: Any) -> ShardedModel:
        config = EngineConfig(attention=backend, activation_checkpointing="all")
        return ShardedModel(told_a_prompt(), config, OptimizerConfig(), CPU, max_train_steps=1)

    plain, native = model(PLAIN), model("native")
    batch = [batch_for(told_a_prompt())]
    num_layers = 8
    # made again in the backward pass
    num_of_gradient = 2 * num_layers

    def displaced(model: ShardedModel) -> None:
        with model.displaced(model.theta, 0.1):
            model.gradient(loss, batch)

    for do, expected in (
        (lambda model: model.gradient(loss, batch), num_of_gradient),
        (displaced, num_of_gradient),
        (lambda model: model.loss(loss, batch), num_layers),
    ):
        assert num_runs(lambda do=do: do(plain)) == {"fused": 0, "plain": expected}
        assert num_runs(lambda do=do: do(native)) == {"fused": expected, "plain": 0}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attention": "xformers", "device": "cpu"}, "'xformers' runs on CUDA alone: with engine.device = 'cpu' leave"),
        ({"attention": "xformers", "deterministic": True}, "'xformers' is not repeatable bit for bit: with engine.det"),
        ({"attention": "flash"}, "'flash' computes in bf16: set engine.precision to 'bf16-autocast' or 'bf16'"),
    ],
)
def test_settings_that_do_not_go_with_it(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^engine.attention = {said}"):
        EngineConfig(**settings)


def test_what_cannot_be_computed_is_refused() -> None:
    check_attention(nn.Linear(2, 2), "native")
    with pytest.raises(ConfigError, match=r"^engine.attention = 'flash': a Linear has no attention that it could"):
        check_attention(nn.Linear(2, 2), "flash")
    wide = _LIBRARY.UNet2DModel(
        sample_size=8,
        block_out_channels=(264,),
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=264,
    )
    with pytest.raises(
        ConfigError, match=r"^engine.attention = 'flash' takes up to 256 channels a head, the model has "
    ):
        check_attention(wide, "flash")
    sliced: Any = told_a_prompt()
    sliced.set_attention_slice("auto")
    with pytest.raises(ConfigError, match="needs diffusers' SlicedAttnProcessor: use 'native'"):
        check_attention(sliced, "xformers")


@pytest.mark.parametrize(("backend", "package"), [("xformers", "xformers"), ("flash", "flash-attn")])
def test_a_missing_package_is_named(backend: Any, package: str) -> None:
    if find_spec(package.replace("-", "_")) is not None:
        pytest.skip("it is here")
    with pytest.raises(ConfigError, match=rf"needs {package}>=[0-9.]+[0-9], which is not here: pip install 'erasediff"):
        check_attention(told_a_prompt(), backend)


def test_a_run_is_refused_before_it_begins(digits: Path, base_model: Path, tmp_path: Path) -> None:
    engine = EngineConfig(attention="xformers")
    with pytest.raises(ConfigError, match=r"^engine.attention = 'xformers': a UNet2DModel has no attention"):
        check(tiny.tiny_config(digits, base_model, tmp_path / "run", engine=engine))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_dry_run_says_that_there_is_no_cuda(digits: Path, base_model: Path, tmp_path: Path) -> None:
    config = tiny.tiny_config(digits, base_model, tmp_path / "run", engine=EngineConfig(attention="xformers"))
    with pytest.raises(ConfigError, match=r"^engine.attention = 'xformers' runs on CUDA alone, and torch sees no CUDA"):
        dry_run(config)
