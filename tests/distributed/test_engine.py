"""Every ZeRO stage, precision and reading of Algorithm 1 against one-process autograd, on 1, 2 and 3 real ranks."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from engine_cases import EXACT_CASES, ROUNDED_CASES, THETA_TOLERANCE, Case
from ranks import check, run_ranks

WORKER = Path(__file__).with_name("engine_worker.py")
WORLD_SIZES = (1, 2, 3)


@cache
def results(world_size: int) -> dict[str, Any]:
    """All cases of a world size: starting ranks costs more than running them."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "results.json"
        check(run_ranks(world_size, [str(WORKER), str(output)]))
        return json.loads(output.read_text())


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("case", EXACT_CASES, ids=str)
def test_three_iterations_equal_the_reference(world_size: int, case: Case) -> None:
    for iteration in results(world_size)[str(case)]:
        assert iteration["delta"] <= 1e-6
        assert iteration["theta"] <= THETA_TOLERANCE[case.optimizer]
        assert iteration["lambda_t"] == pytest.approx(iteration["expected_lambda_t"], rel=1e-4, abs=1e-6)
        assert iteration["skip"] == 0
        assert iteration["traces"] == 0, "φ left a trace in θ or in the optimizer's state"


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("case", ROUNDED_CASES, ids=str)
def test_bf16_adds_no_more_error_than_one_process_has(world_size: int, case: Case) -> None:
    found = results(world_size)[str(case)]
    assert found["one_process_error"] > 0
    assert found["error"] <= 2 * found["one_process_error"]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_wrong_delta_is_seen(world_size: int) -> None:
    assert results(world_size)["wrong"] > 1e-5


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_displacement_leaves_no_trace(world_size: int) -> None:
    assert all(results(world_size)["displaced"].values()), results(world_size)["displaced"]
