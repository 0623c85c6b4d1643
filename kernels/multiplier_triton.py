"""Triton form of `multiplier`: one launch of one program."""

# a kernel is Triton's language, not Python: launch options, argument types and branches mean other things
# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import FP_FUSION


@triton.jit
def _multiplier(
    sums,
    g,
    out,
    eta: tl.float64,
    lambda_cap: tl.float64,
    NUM_SUMS: tl.constexpr,
    HAS_G: tl.constexpr,
    VALUE: tl.constexpr,
):
    columns = tl.arange(0, 8)
    all_sums = tl.load(sums + columns, mask=columns < NUM_SUMS, other=0.0)
    finite = tl.sum((tl.abs(all_sums) < float("inf")).to(tl.int32)) == 8
    if HAS_G:
        g_value = tl.load(g).to(tl.float64)
        finite = finite & (tl.abs(g_value) < float("inf"))
    gg = tl.where(finite, tl.load(sums), 0.0)
    gr = tl.where(finite, tl.load(sums + 1), 0.0)
    rr = tl.where(finite, tl.load(sums + 2), 0.0)
    zero = gg == 0.0
    divisor = tl.where(zero, 1.0, gg)
    if VALUE:
        a_t = eta * tl.where(finite & (g_value > 0.0), g_value, 0.0)
        exact = (a_t - gr) / divisor
    else:
        a_t = eta * gg
        exact = eta - gr / divisor
    exact = tl.where(zero | (exact < 0.0), 0.0, exact)
    capped = exact > lambda_cap
    lambda_t = tl.where(capped, lambda_cap, exact)
    infeasible = zero & (a_t > 0.0)
    missing = a_t - (gr + lambda_t * gg)
    shortfall = tl.where((capped | infeasible) & (missing > 0.0), missing, 0.0)
    # 3.4028234663852886e38 is the largest fp32
    finite = finite & (tl.sqrt(rr) + lambda_t * tl.sqrt(gg) < 3.4028234663852886e38)
    tl.store(out, tl.where(finite, lambda_t, 0.0))
    tl.store(out + 1, tl.where(finite, a_t, 0.0))
    tl.store(out + 2, (finite & capped).to(tl.float64))
    tl.store(out + 3, (finite & infeasible).to(tl.float64))
    tl.store(out + 4, finite.to(tl.float64))
    tl.store(out + 5, tl.where(finite, shortfall, 0.0))


def multiplier_triton(sums: Tensor, eta: float, value: bool, g: Tensor | None, lambda_cap: float, out: Tensor) -> None:
    """`multiplier`, written to out; lambda_cap is inf for none."""
    with torch.cuda.device_of(sums):
        _multiplier[(1,)](
            sums, sums if g is None else g, out, eta, lambda_cap,
            NUM_SUMS=sums.numel(), HAS_G=g is not None, VALUE=value, num_warps=1, enable_fp_fusion=FP_FUSION,
        )  # fmt: skip
