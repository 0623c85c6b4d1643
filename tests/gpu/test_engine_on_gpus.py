"""The engine's exactness on CUDA, and steps that never wait for the host. Skipped where there is no GPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from engine_cases import (
    DIFFERENCE_CASES,
    THETA_TOLERANCE,
    WIRE_CASES,
    exact_cases,
    rounded_cases,
)
from erasediff.shards import Dataset, Stream
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.models.families import load_model
from erasediff.trainer.objectives.diffusion import DiffusionObjective
from erasediff.trainer.ranks import collectives
from erasediff.trainer.side_stream import SideStream
from ranks import check, run_ranks
from tiny import tiny_config
from tiny_text import make_pipeline
from torch import Tensor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
# whose annotations are narrower than what they take
_LIBRARY: Any = diffusers
WORKER = Path(__file__).parent.parent / "distributed" / "engine_worker.py"


@dataclass(frozen=True)
class Batch:
    weights: Tensor


@pytest.mark.timeout(600)
def test_every_stage_and_precision_equals_the_reference(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    world_size, environment = torch.cuda.device_count(), {"ENGINE_TEST_DEVICE": "cuda"}
    check(run_ranks(world_size, [str(WORKER), str(output)], environment=environment, timeout_seconds=570))
    results = json.loads(output.read_text())
    for case in exact_cases(world_size):
        for iteration in results[str(case)]:
            assert iteration["delta"] <= 1e-6, case
            assert iteration["theta"] <= THETA_TOLERANCE[case.optimizer], case
            assert iteration["traces"] == 0, case
    for case in rounded_cases(world_size):
        assert results[str(case)]["error"] <= 2 * results[str(case)]["one_process_error"], case
    for case in WIRE_CASES if world_size > 1 else []:
        # half a unit in the last place of a gradient for each rank's, and once more for their sum
        assert 5e-4 <= results[str(case)]["of_wire"] <= 2**-9 * (world_size + 1), case
    for case in DIFFERENCE_CASES:
        found = results[str(case)]
        assert found["cosine"] >= 0.9999, case
        assert found["g"] == pytest.approx(found["expected_g"], rel=5e-3), case
    assert all(results["displaced"].values()), results["displaced"]


@pytest.mark.parametrize(
    ("switch", "tolerance"),
    [
        ({"compile": True}, 1e-5),
        ({"compile": True, "activation_checkpointing": "all", "activation_checkpointing_share": 0.5}, 1e-5),
        ({"channels_last": True}, 1e-5),
        ({"cudnn_benchmark": True}, 1e-5),
        ({"precision": "tf32"}, 1e-2),
    ],
)
def test_what_is_faster_changes_rounding_alone(switch: dict[str, Any], tolerance: float) -> None:
    """Each beside plain fp32; a pass that must be exact is so in TF32, too."""

    def gradients(**engine: Any) -> tuple[Tensor, Tensor]:
        config = EngineConfig(device="cuda", **engine)
        device = collectives.set_up(config)
        torch.manual_seed(0)
        module: Any = _LIBRARY.UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            cross_attention_dim=32,
        )
        told, x = torch.randn(4, 7, 32, device=device), torch.randn(4, 4, 16, 16, device=device)
        t = torch.tensor([3, 70, 700, 999], device=device)
        model = ShardedModel(module.to(device), config, OptimizerConfig(), device, max_train_steps=1)

        def loss(model: ShardedModel, batch: Batch) -> Tensor:
            return model.predict(x, t, told, return_dict=False)[0].square().flatten(1).mean(1)

        batch = [Batch(torch.ones(4, device=device))]
        return model.gradient(loss, batch)[1].data, model.gradient(loss, batch, exact=True)[1].data

    expected, _ = gradients()
    found, exact = gradients(**switch)
    assert (found - expected).norm() <= tolerance * expected.norm()
    assert (exact - expected).norm() <= 1e-5 * expected.norm()
    if "precision" in switch:
        assert (found - expected).norm() >= 1e-5 * expected.norm(), "TF32 was not on"


@pytest.mark.parametrize("zero_stage", [2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16-autocast"])
def test_a_step_never_waits_for_the_device(
    digits: Path, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, zero_stage: Any
) -> None:
    engine = EngineConfig(device="cuda", precision=precision, zero_stage=zero_stage)
    device = collectives.set_up(engine)
    config = tiny_config(digits, base_model, tmp_path / "run", engine=engine)
    model = load_model(ModelConfig(path=config.model.path, null_class=10))
    method = EraseDiffConfig(barrier="value", gradient_of_g="first_order", num_inner_steps=2)
    objective = DiffusionObjective(
        model, device, seed=0, label_drop=0.1, method=method, others=[0, 1, 2, 4, 5, 6, 7, 8, 9]
    )
    sharded = ShardedModel(model.module, engine, OptimizerConfig(), device, max_train_steps=10)
    streams = [Stream(Dataset.open(path), seed=0, batch_size=8) for path in (config.forget, config.remain)]
    chosen = method.make(objective)

    def waits(*_: Any) -> None:
        raise AssertionError("the host waits for the device")

    def step(number: int) -> None:
        forget = objective.forget_batches(streams[0].batch(number))
        remain = objective.remain_batches(streams[1].batch(number))
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            with monkeypatch.context() as patched:
                for place in (torch.cuda, torch.cuda.Event) if number else ():
                    patched.setattr(place, "synchronize", waits)  # of these the debug mode says nothing
                update = chosen.step(sharded, forget, remain, number, diagnose=False)
                sharded.step(update.delta, number, update.skip)
                update.packet.extend(skipped=update.skip)
                packet = update.packet.to_host()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert packet.read()["skipped"] == 0

    for number in range(3):  # in the first one memory is taken, kernels are compiled, DeepSpeed compares its ranks
        step(number)


def test_a_step_waits_for_what_the_side_stream_makes() -> None:
    device = torch.device("cuda")
    side_stream = SideStream(device)

    def make() -> list[Tensor]:
        value = torch.full((1000,), 3.0, device=device)
        torch.cuda._sleep(100_000_000)
        return [value.mul(2)]

    staged = side_stream.make(make)
    torch.cuda.set_sync_debug_mode("error")
    try:
        (value,) = staged.take()
        doubled = value * 2
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (doubled == 12).all()


def test_a_prompt_that_the_side_stream_encodes_is_waited_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, prompt = torch.device("cuda"), "a red three"
    model: Any = load_model(ModelConfig(path=str(make_pipeline(tmp_path / "pipeline"))))
    for part in model.frozen_parts.values():
        part.to(device)
    encode = type(model).encode_prompt

    def slowly(*arguments: Any) -> Any:
        # after it, as telling tokens waits for the device
        found = encode(*arguments)
        torch.cuda._sleep(100_000_000)
        return {name: value.clone() for name, value in found.items()}

    monkeypatch.setattr(type(model), "encode_prompt", slowly)
    SideStream(device).make(lambda: model.told([prompt], device))
    found = model.told([prompt], device)["encoder_hidden_states"][0]
    assert torch.equal(found, encode(model, prompt, device)["encoder_hidden_states"])
