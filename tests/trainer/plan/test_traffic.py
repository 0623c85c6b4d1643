"""Bytes on the wire, beside formulas written out."""

from __future__ import annotations

import pytest
from erasediff.trainer import EraseDiffConfig, FinetuneConfig
from erasediff.trainer.config import Precision
from erasediff.trainer.config.cost import Cost
from erasediff.trainer.plan.traffic import wire_bytes

# the parameters of Stable Diffusion 1.x's U-Net
NUM_PARAMETERS = 859_520_964
SENT = 7 / 8 * NUM_PARAMETERS


def cost(num_inner_steps: int = 1, precision: Precision = "fp32", **options: str) -> Cost:
    return EraseDiffConfig(num_inner_steps=num_inner_steps, **options).cost(precision)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("num_micro_batches", [1, 4])
def test_two_gradients_and_a_publication(stage: int, num_micro_batches: int) -> None:
    wire = wire_bytes(stage, NUM_PARAMETERS, 8, cost(), num_micro_batches=num_micro_batches)
    assert wire.total == pytest.approx(3 * 4 * SENT)
    assert (wire.reductions, wire.publications, wire.gathers) == pytest.approx((8 * SENT, 4 * SENT, 0))


@pytest.mark.parametrize(("num_inner_steps", "units"), [(0, 3), (1, 4), (2, 6), (5, 12)])
def test_inner_steps_by_value(num_inner_steps: int, units: int) -> None:
    """K + 1 gradients and K + 1 publications; without inner steps two and one."""
    found = wire_bytes(2, NUM_PARAMETERS, 8, cost(num_inner_steps, barrier="value")).total
    assert found == pytest.approx(units * 4 * SENT)


@pytest.mark.parametrize(("num_inner_steps", "units"), [(0, 3), (1, 5), (2, 7), (5, 13)])
def test_inner_steps_by_first_order(num_inner_steps: int, units: int) -> None:
    """2K + 3 with an inner step or more: one gradient more."""
    found = wire_bytes(2, NUM_PARAMETERS, 8, cost(num_inner_steps, gradient_of_g="first_order")).total
    assert found == pytest.approx(units * 4 * SENT)


def test_types_count() -> None:
    found = wire_bytes(2, NUM_PARAMETERS, 8, cost(), weight_bytes=2, reduce_bytes=2)
    # 4.5 GB of bf16: a third of it for a publication
    assert found.total == pytest.approx(4.5e9, rel=0.01)
    assert found.publications == pytest.approx(found.total / 3)


@pytest.mark.parametrize(("times", "num_gathers"), [(1, 4 * 2 + 1), (3, 4 * (2 * 2 + 1))])
def test_stage_3_gathers_for_each_micro_batch_of_a_gradient(times: int, num_gathers: int) -> None:
    """And where that is more than a thousand million elements for each pass of each."""
    num_parameters, num_persistent = times * NUM_PARAMETERS, times * 500_000
    found = wire_bytes(
        3, num_parameters, 8, Cost(2, 1, forward_gathers=1), num_micro_batches=4, num_persistent=num_persistent
    )
    sent_of_gathered, of_persistent = 7 / 8 * (num_parameters - num_persistent), 7 / 8 * num_persistent
    assert found.reductions == pytest.approx(4 * 2 * 4 * times * SENT)
    assert found.gathers == pytest.approx(num_gathers * 4 * sent_of_gathered)
    assert found.publications == pytest.approx(4 * of_persistent)


def test_forward_passes_at_the_same_weights_gather_together() -> None:
    found = wire_bytes(3, NUM_PARAMETERS, 8, Cost(2, 5, forward_gathers=1), num_micro_batches=2)
    assert found.gathers == pytest.approx((2 * 2 + 1) * 4 * SENT)


def test_a_rank_alone_sends_nothing_and_a_packet_is_reduced_once() -> None:
    assert wire_bytes(2, NUM_PARAMETERS, 1, cost(), num_tensors=686).total == 0
    found = wire_bytes(2, NUM_PARAMETERS, 2, FinetuneConfig().cost("fp32"), num_tensors=686, num_sums=6)
    assert found.packet == 686 * 6 * 8
