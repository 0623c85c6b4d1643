"""The two multipliers of relearning-aware erasure and δ's length, from the inner products of three gradients alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from erasediff.kernels.inner_products import inner_products_by_parameter
from erasediff.kernels.table import ParameterTable
from erasediff.trainer.engine import Packet
from erasediff.trainer.methods import meta_erasediff
from erasediff.trainer.methods.meta_erasediff import MetaEraseDiffConfig


def three(seed: int, scale: float) -> tuple[torch.Tensor, ...]:
    """f, r and p, fp32, of other lengths and at any angle; p is near f, as θ displaced is near θ."""
    generator = torch.Generator().manual_seed(seed)
    f, r, p = torch.randn(3, 40, generator=generator) * scale
    return f, 3 * r - (seed % 3) * f, 0.7 * f + 0.5 * p


def packet_of(f: torch.Tensor, r: torch.Tensor, p: torch.Tensor) -> Packet:
    sums, _ = inner_products_by_parameter(f, r, p, table=ParameterTable.from_rows([(0, 0, len(f))], 1))
    return Packet(torch.zeros(1, 6, dtype=torch.float64), **meta_erasediff._gram(sums))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("holds_theta", [True, False])
def test_both_barriers_hold_with_the_least_that_is_added(holds_theta: bool, seed: int, scale: float) -> None:
    """The conditions of Karush, Kuhn and Tucker, with the vectors themselves in fp64."""
    f, r, p = (vector.double() for vector in three(seed, scale))
    packet = packet_of(*three(seed, scale))
    products = {"dot_rr": r @ r, "dot_ff": f @ f, "dot_fr": f @ r, "dot_fp": f @ p, "dot_pp": p @ p, "dot_pr": p @ r}
    rounding = 1e-5 * float(f.norm() * r.norm())
    for name, product in products.items():
        assert float(packet[name]) == pytest.approx(float(product), rel=1e-5, abs=rounding), name
    losses: Any = None
    method = MetaEraseDiffConfig(eta=0.3, holds_theta=holds_theta).make(losses)
    lambda_t, mu_t = map(float, method._multipliers(packet))
    delta = r + lambda_t * f + mu_t * p
    assert lambda_t >= 0 and mu_t >= 0
    for gradient, multiplier, counts in ((f, lambda_t, holds_theta), (p, mu_t, True)):
        over = float(gradient @ delta - 0.3 * gradient @ gradient) / float(gradient @ gradient)
        if counts:
            assert over >= -1e-4
            assert multiplier == 0 or over == pytest.approx(0, abs=1e-4), "what is not needed is not added"
        else:
            assert multiplier == 0
    packet.extend(lambda_t=torch.tensor(lambda_t, dtype=torch.float64), mu_t=torch.tensor(mu_t, dtype=torch.float64))
    assert float(meta_erasediff._norm_squared(packet)) == pytest.approx(float(delta @ delta), rel=1e-4)


def test_each_set_of_constraints_is_met_in_some_case() -> None:
    """Or the test above would hold with one of them never looked at."""
    losses: Any = None
    method = MetaEraseDiffConfig(eta=0.3).make(losses)
    found = {tuple(float(m) > 0 for m in method._multipliers(packet_of(*three(seed, 1.0)))) for seed in range(5)}
    assert len(found) >= 3
