"""What stages 1 and 2 send on 2 and 3 real ranks, and where their buckets lie."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from engine_cases import METHODS, TRAFFIC_CASES, TrafficCase
from erasediff.trainer.plan.traffic import wire_bytes
from ranks import check, run_ranks

WORKER = Path(__file__).with_name("bucket_worker.py")


@cache
def results(world_size: int) -> dict[str, Any]:
    """Of all cases of a world size, launched once."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "results.json"
        check(run_ranks(world_size, [str(WORKER), str(output)]))
        return json.loads(output.read_text())


@pytest.mark.parametrize("case", TRAFFIC_CASES, ids=str)
@pytest.mark.parametrize("world_size", [2, 3])
def test_a_loss_pays_one_reduction(world_size: int, case: TrafficCase) -> None:
    """However many micro-batches it has: two on two ranks, one on three."""
    found = results(world_size)[str(case)]
    assert found["_reduce_scatter_base_"] == pytest.approx(case.reduced, rel=0.02)
    assert found["_allgather_base_"] == pytest.approx(case.gathered, rel=0.02)
    # what `plan` says: of a whole vector each rank sends all but its own part
    width = 2 if case.case.precision == "bf16" else 4
    reduced = 2 if "wire" in case.case.spread else 4
    cost = METHODS[case.case.method].cost(case.case.precision)  # pyright: ignore[reportArgumentType]
    # the tiny model's target costs no forward pass; none is sent for one at these stages
    told = wire_bytes(2, 1000, world_size, cost, weight_bytes=width, reduce_bytes=reduced)
    sent = width * 1000 * (world_size - 1) / world_size
    assert told.reductions / sent == pytest.approx(case.reduced)
    assert told.publications / sent == pytest.approx(case.gathered)
    # the weight of each loss's batch, and the packet; what is logged of the step
    num_losses = {"finetune": 1, "envelope-norm": 2, "envelope-value-K1": 3, "first_order-norm-K3": 5}
    assert found.keys() == {"_reduce_scatter_base_", "_allgather_base_", "allreduce_", "sums"}
    assert found["sums"] == num_losses[case.case.method] + 1


@pytest.mark.parametrize("stage", [1, 2])
def test_reductions_go_on_beside_the_backward_pass(stage: int) -> None:
    """Seen in the order of events: a gradient, a reduction that starts, one that is waited for."""
    events = results(2)[f"order zero{stage} overlap"]
    assert events.count("start") == events.count("wait") > 3
    last_gradient = len(events) - 1 - events[::-1].index("gradient")
    assert events.index("start") < last_gradient
    # the first two are not waited for before the third has started, and gradients come meanwhile
    started = [i for i, event in enumerate(events) if event == "start"]
    assert events.index("wait") > started[2]
    assert "gradient" in events[started[0] : started[2]]
    # without overlap each is waited for at once
    events = results(2)[f"order zero{stage}"]
    assert events.count("start") > 3
    assert all(events[i + 1] == "wait" for i, event in enumerate(events) if event == "start")


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_quantile_of_all_shards_is_exact(world_size: int) -> None:
    found = results(world_size)["quantiles"]
    assert len({theirs for _, theirs in found}) >= 4
    for ours, theirs in found[1:]:
        assert ours == theirs
    # no element need be below the smallest
    assert found[0][0] <= found[0][1]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_whose_losses_use_other_parameters_meet(world_size: int) -> None:
    assert results(world_size)["uneven"] <= 1e-6


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_piece_of_a_partition_starts_at_16_bytes(world_size: int) -> None:
    assert results(world_size)["misaligned fp32"] == [0] * world_size
    assert results(world_size)["misaligned bf16"] == [0] * world_size


@pytest.mark.parametrize("world_size", [2, 3])
def test_gloo_copies_what_it_sends(world_size: int) -> None:
    """What a plan counts on a CPU."""
    assert 0.9 <= results(world_size)["copied"] <= 1.2
