"""Every ZeRO stage, precision and reading of Algorithm 1 against one-process autograd, on 1, 2 and 3 real ranks."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from engine_cases import (
    DIFFERENCE_CASES,
    METHODS,
    NUM_MICRO_BATCHES,
    SPREADS,
    STAGE_3_TRAFFIC_CASES,
    THETA_TOLERANCE,
    WIRE_CASES,
    Case,
    exact_cases,
    rounded_cases,
)
from erasediff.trainer.config import EngineConfig
from erasediff.trainer.plan.traffic import wire_bytes
from erasediff.trainer.ranks.collectives import collective_timeout
from ranks import check, run_ranks
from text_cases import Case as TextCase
from text_cases import text_cases

WORKER = Path(__file__).with_name("engine_worker.py")
WORLD_SIZES = (1, 2, 3)
LAUNCH_SECONDS = 800  # about 100 on idle cores
pytestmark = pytest.mark.timeout(LAUNCH_SECONDS + 50)


@cache
def launched(world_size: int) -> tuple[list[CompletedProcess[str]], str] | TimeoutExpired:
    """All cases of a world size, once, whatever comes of it: starting ranks costs more than running them."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "results.json"
        try:
            ended = run_ranks(world_size, [str(WORKER), str(output)], timeout_seconds=LAUNCH_SECONDS)
        except TimeoutExpired as error:
            return error
        return ended, output.read_text() if output.exists() else "{}"


def results(world_size: int) -> dict[str, Any]:
    found = launched(world_size)
    if isinstance(found, TimeoutExpired):
        raise found
    ended, text = found
    check(ended)
    return json.loads(text)


@pytest.mark.parametrize(("world_size", "case"), [(n, case) for n in WORLD_SIZES for case in exact_cases(n)], ids=str)
def test_iterations_equal_the_reference(world_size: int, case: Case) -> None:
    for iteration in results(world_size)[str(case)]:
        assert iteration["delta"] <= 1e-6
        assert iteration["theta"] <= THETA_TOLERANCE[case.optimizer]
        assert iteration["lambda_t"] == pytest.approx(iteration["expected_lambda_t"], rel=1e-4, abs=1e-6)
        assert iteration["skip"] == 0
        assert iteration["told_norm"] == pytest.approx(1, rel=1e-5)
        assert iteration["traces"] == 0, "φ left a trace in θ or in the optimizer's state"


@pytest.mark.parametrize(("world_size", "case"), [(n, case) for n in WORLD_SIZES for case in rounded_cases(n)], ids=str)
def test_bf16_adds_no_more_error_than_one_process_has(world_size: int, case: Case) -> None:
    found = results(world_size)[str(case)]
    assert found["one_process_error"] > 0
    assert found["error"] <= 2 * found["one_process_error"]


@pytest.mark.parametrize("case", DIFFERENCE_CASES, ids=str)
def test_differences_are_resolved_at_the_default_inner_step(case: Case) -> None:
    found = results(2)[str(case)]
    assert found["cosine"] >= 0.9999
    assert found["g"] == pytest.approx(found["expected_g"], rel=5e-3)


@pytest.mark.parametrize(("world_size", "case"), [(n, case) for n in WORLD_SIZES for case in text_cases(n)], ids=str)
def test_a_step_of_stable_diffusion_equals_the_reference(world_size: int, case: TextCase) -> None:
    found = results(world_size)[str(case)]
    # an autoencoder, a text encoder and attention round on the way: 2e-6
    assert found["delta"] <= 5e-6
    assert found["num_runs"] == case.num_runs * (4 // world_size // min(case.forward_batch_size, 4 // world_size))


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("case", STAGE_3_TRAFFIC_CASES, ids=str)
def test_stage_3_sends_what_a_plan_says(world_size: int, case: Case) -> None:
    found = results(world_size)[f"traffic {case}"]
    cost = METHODS[case.method].cost(case.precision)  # pyright: ignore[reportArgumentType]
    threshold = SPREADS[case.spread]["persistence_threshold"] if case.spread in SPREADS else math.inf
    told = wire_bytes(
        3,
        1000,
        world_size,
        cost,
        num_micro_batches={2: NUM_MICRO_BATCHES, 3: 1}[world_size],
        num_persistent=0 if threshold == 0 else 1000,
    )
    sent = 4 * 1000 * (world_size - 1) / world_size
    # gradients are summed in fp32, beside weights of 2 bytes
    width = {"fp32": 4, "bf16": 2}[case.precision]
    assert found["_reduce_scatter_base_"] * width / 4 == pytest.approx(told.reductions / sent, rel=0.02)
    assert found["_allgather_base_"] == pytest.approx((told.gathers + told.publications) / sent, rel=0.02)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("case", WIRE_CASES, ids=str)
def test_bf16_on_the_wire_costs_what_it_says(world_size: int, case: Case) -> None:
    found = results(world_size)[str(case)]
    assert (found["error"] - found["one_process_error"]) / found["norm"] <= 4e-3
    assert 5e-4 <= found["of_wire"] <= 4e-3, "5e-4: nothing was rounded on the wire"


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_every_process_group_waits_as_long_as_is_set(world_size: int) -> None:
    found = results(world_size)["timeouts"]
    assert len(found) == 2  # the world's, and DeepSpeed's
    assert set(found) == {collective_timeout(EngineConfig()).total_seconds()}


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_no_step_starts_a_process(world_size: int) -> None:
    """DeepSpeed counts a CPU's devices at every reduction of stage 3: once is enough."""
    assert results(world_size)["started"] in ([], ["numactl"])


def test_the_persistence_threshold_decides_what_stays_whole() -> None:
    found = results(2)["persistent"]
    assert found["nothing-persistent-overlap"] == 0
    assert 0 < found["not-persistent"] < found["overlap"]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_wrong_delta_is_seen(world_size: int) -> None:
    assert results(world_size)["wrong"] > 1e-5


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_displacement_leaves_no_trace(world_size: int) -> None:
    assert all(results(world_size)["displaced"].values()), results(world_size)["displaced"]
