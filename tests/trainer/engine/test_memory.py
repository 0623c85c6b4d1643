"""What the engine holds in memory at its peak: each storage counts from its making to its end, nothing is timed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import pytest
import torch
from erasediff.trainer.config import EngineConfig, OptimizerConfig
from erasediff.trainer.config.toml import check_ranges
from erasediff.trainer.engine.recomputing import Recomputing
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.ranks import collectives
from held import Held
from torch import Tensor, nn

# whose annotations are narrower than what they take
_LIBRARY: Any = diffusers
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    weights: Tensor
    x: Tensor
    told: Tensor


def unet() -> nn.Module:
    """Its activations at 32 × 32 take many times what its parameters do."""
    torch.manual_seed(0)
    return _LIBRARY.UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        attention_head_dim=4,
        norm_num_groups=4,
        cross_attention_dim=12,
    )


BATCH = [Batch(torch.ones(2), torch.randn(2, 4, 32, 32), torch.randn(2, 5, 12))]


def loss(model: ShardedModel, batch: Batch) -> Tensor:
    output = model.predict(batch.x, torch.tensor([3, 700]), batch.told, return_dict=False)[0]
    return output.square().flatten(1).mean(1)


def make(module: nn.Module, **engine: Any) -> ShardedModel:
    config = EngineConfig(device="cpu", reduce_bucket_size=70_000, **engine)
    collectives.set_up(config)
    return ShardedModel(module, config, OptimizerConfig(), CPU, max_train_steps=1)


def peak_bytes(do: Callable[[], object]) -> int:
    """Of all tensors made inside that are alive at once."""
    with Held() as held:
        do()
    return held.peak


def outer(model: ShardedModel) -> None:
    model.gradient(loss, BATCH)


def inner(model: ShardedModel) -> None:
    with model.displaced(model.theta, 0.1):
        model.gradient(loss, BATCH)


@pytest.mark.parametrize("stage", [2, 3])
def test_nothing_stays_of_a_model_that_is_dropped(stage: Any) -> None:
    """One run after another, as `compare` has them: each would leave its weights and gradients in memory."""

    def one() -> int:
        model = make(unet(), zero_stage=stage)
        outer(model)
        inner(model)
        model.close()
        del model
        return alive_bytes()

    # what the first run makes once
    before = one()
    assert one() < before + 0.1 * sum(value.nbytes for value in unet().parameters())


def alive_bytes() -> int:
    """Of all tensors, each storage once."""
    gc.collect()
    storages = [one.untyped_storage() for one in gc.get_objects() if isinstance(one, Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.fixture(scope="module")
def kept() -> int:
    """The peak of a gradient that keeps every activation."""
    return peak_bytes(lambda: outer(make(unet())))


@pytest.mark.parametrize(
    ("setting", "gradient", "makes_again"),
    [
        ("inner", outer, False),
        ("inner", inner, True),
        ("all", outer, True),
        ("all", inner, True),
        ("off", inner, False),
    ],
)
def test_checkpointing_lowers_the_peak_where_it_is_asked_for(
    kept: int, setting: str, gradient: Callable[[ShardedModel], None], makes_again: bool
) -> None:
    model = make(unet(), activation_checkpointing=setting)
    found = peak_bytes(lambda: gradient(model))
    if makes_again:
        assert found < 0.6 * kept
    else:
        assert found > 0.9 * kept


def test_a_share_of_the_blocks_lowers_it_by_a_share(kept: int) -> None:
    shares = [0.5, 1.0]
    models = [make(unet(), activation_checkpointing="all", activation_checkpointing_share=share) for share in shares]
    models.insert(0, make(unet()))
    none, half, whole = (peak_bytes(lambda model=model: outer(model)) for model in models)
    assert none > 0.9 * kept
    assert whole < 0.9 * half < 0.9 * 0.9 * none


def test_the_smallest_share_is_one_block() -> None:
    module = unet()
    recomputing = Recomputing(module, "all", share=1e-9)
    with recomputing.at(inner=False):
        found = [part for part in module.modules() if getattr(part, "gradient_checkpointing", False)]
    assert len(found) == 1
    with pytest.raises(ConfigError, match="activation_checkpointing_share"):
        check_ranges(EngineConfig(activation_checkpointing_share=0.0))


class Deep(nn.Module):
    """Parameters alone: 8 layers of 256 kB."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(8)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


NUM_BYTES = 8 * 256 * 256 * 4


def loss_of_deep(model: ShardedModel, batch: Batch) -> Tensor:
    return model.predict(batch.x.to(model.working_dtype)).float().square().mean(1)


@pytest.mark.parametrize(("stage", "precision"), [(2, "fp32"), (2, "bf16"), (3, "fp32")])
def test_a_gradient_is_held_once(stage: Any, precision: Any) -> None:
    model = make(Deep(), zero_stage=stage, precision=precision)
    batch = [Batch(torch.ones(1), torch.ones(1, 256), torch.ones(1))]
    made: list[object] = []
    # itself, and the layer at work
    assert peak_bytes(lambda: made.append(model.gradient(loss_of_deep, batch))) < 1.5 * NUM_BYTES


@pytest.mark.parametrize("stage", [2, 3])
def test_the_weights_as_they_were_loaded_are_not_copied(stage: Any) -> None:
    """θ in fp32 is cut from them; beside them DeepSpeed holds the bf16 weights up to four times as it starts."""
    module = Deep()
    made: list[object] = []
    assert peak_bytes(lambda: made.append(make(module, zero_stage=stage, precision="bf16"))) < 3.3 * NUM_BYTES
