"""The largest micro-batch that fits is the largest, and the best way one that fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from erasediff.trainer import EraseDiffConfig, FinetuneConfig
from erasediff.trainer.config import EngineConfig, MethodConfig, ModelConfig, ScrubConfig, TrainConfig
from erasediff.trainer.methods.esd import ESDConfig
from erasediff.trainer.methods.forget_me_not import ForgetMeNotConfig
from erasediff.trainer.plan.devices import device_of
from erasediff.trainer.plan.plan import Plan, make_plan


def plan(model: Path, memory_bytes: float, forward_batch_size: int | None = None) -> Plan:
    """Of 64 samples on one rank that has so much memory and keeps none back."""
    device = replace(device_of("a100-80gb", 1), memory_bytes=memory_bytes, reserve_bytes=0)
    config = ScrubConfig(
        ModelConfig(str(model)),
        "-",
        "-",
        "-",
        train=TrainConfig(train_batch_size=64),
        engine=EngineConfig(forward_batch_size=forward_batch_size),
    )
    return make_plan(config, device, 1, mfu=0.28)


def test_the_largest_micro_batch_fits_and_one_more_does_not(base_model: Path) -> None:
    whole = plan(base_model, 1e12).as_set
    assert whole.max_micro_batch == 64
    memory_bytes = 0.5 * whole.peak_bytes
    tight = plan(base_model, memory_bytes)
    assert not tight.as_set.fits
    largest = tight.as_set.max_micro_batch
    assert largest is not None
    assert 1 < largest < 63
    assert plan(base_model, memory_bytes, largest).as_set.fits
    assert not plan(base_model, memory_bytes, largest + 1).as_set.fits
    # in as many as it takes, of even size
    best = tight.best
    assert best is not None
    assert best.fits
    assert best.num_micro_batches == -(-64 // largest)
    assert best.micro_batch == -(-64 // best.num_micro_batches) <= largest
    assert plan(base_model, 1e5).best is None


def seconds_of(model: Path, overlap: bool, stage: int = 2, gpus: int = 8) -> tuple[float, float, float, float]:
    """(communication, all on the wire, reductions, the backward passes that they run beside)."""
    device = device_of("a100-80gb", 8)
    train, engine = TrainConfig(train_batch_size=64), EngineConfig(zero_stage=stage, overlap_communication=overlap)  # pyright: ignore[reportArgumentType]
    config = ScrubConfig(ModelConfig(str(model)), "-", "-", "-", train=train, engine=engine)
    way = make_plan(config, device, gpus, mfu=1e-6 if overlap else 0.28).as_set
    bandwidth = device.bus_bandwidth(gpus)
    return way.seconds.communication, way.wire.total / bandwidth, way.wire.reductions / bandwidth, way.seconds.passes


def test_reductions_hide_behind_backward_passes_that_are_long_enough(base_model: Path) -> None:
    shown, all_of_it, reductions, _ = seconds_of(base_model, overlap=False)
    assert shown == all_of_it and 0 < reductions < all_of_it
    # passes at a millionth of the peak take longer than any reduction
    shown, all_of_it, reductions, passes = seconds_of(base_model, overlap=True)
    assert passes > 100 * reductions
    assert abs(shown - (all_of_it - reductions)) < 1e-9 * all_of_it


@pytest.mark.parametrize(
    ("method", "num_gathers"),
    [
        (EraseDiffConfig(target="noise"), 2),
        # the first gradient has the weights that its pass gathered
        (EraseDiffConfig(target="rl"), 2),
        # those were the original model's
        (EraseDiffConfig(target="rl", teacher="frozen"), 3),
        # both of its passes
        (EraseDiffConfig(target="negative_guidance"), 3),
        # and a look at L_r, before the gradient
        (ESDConfig(), 2),
        (ForgetMeNotConfig(concept=("three",)), 1),
        (FinetuneConfig(), 1),
    ],
)
def test_a_target_of_the_current_model_gathers_nothing_more(
    base_model: Path, method: MethodConfig, num_gathers: int
) -> None:
    engine = EngineConfig(zero_stage=3, persistence_threshold=0)
    config = ScrubConfig(ModelConfig(str(base_model)), "-", "-", "-", method=method, engine=engine)
    way = make_plan(config, device_of("a100-80gb", 8), 8, mfu=0.28).as_set
    # a gradient is summed in as many bytes as weights have
    assert way.wire.gathers / way.wire.reductions == pytest.approx(num_gathers / method.cost("fp32").gradients)


@pytest.mark.parametrize(("device", "copies"), [("cpu", 2), ("a100-80gb", 1)])
def test_a_bucket_on_its_way_has_a_copy_on_a_cpu(base_model: Path, device: Any, copies: int) -> None:
    """gloo makes one (tests/distributed/test_buckets_on_ranks.py), NCCL none."""
    config = ScrubConfig(ModelConfig(str(base_model)), "-", "-", "-", engine=EngineConfig(reduce_bucket_size=12_000))
    config = replace(config, train=TrainConfig(train_batch_size=2))
    found = make_plan(config, device_of(device, 2), 2, mfu=0.28)
    first, last = found.sizes.bucket_numels(config.engine, 2)
    # a backward pass begins with the last: it is sent while the first has its gradients and their sum
    assert found.as_set.memory["buckets"] == 4 * (2 * first + copies * last)


@pytest.mark.parametrize("device", ["cpu", "a100-80gb"])
def test_without_overlap_a_bucket_is_gone_before_the_next_is_full(base_model: Path, device: Any) -> None:
    engine = EngineConfig(reduce_bucket_size=2_000, overlap_communication=False)
    config = ScrubConfig(ModelConfig(str(base_model)), "-", "-", "-", engine=engine)
    config = replace(config, train=TrainConfig(train_batch_size=2))
    found = make_plan(config, device_of(device, 2), 2, mfu=0.28)
    numels = found.sizes.bucket_numels(config.engine, 2)
    assert len(numels) > 4
    # its gradients and their sum at most, whenever it is that memory is fullest
    assert found.as_set.memory["buckets"] <= 4 * 2 * max(numels)
