"""The multiplier λ_t of Theorem 3.1 and its flags, on the device that holds the sums."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

Barrier = Literal["norm", "value"]

FLOAT32_MAX = torch.finfo(torch.float32).max


class Multiplier(NamedTuple):
    """λ_t and what the host should know about it: 0-dim views, in this order, into one fp64 tensor [6]."""

    lambda_t: Tensor
    """≥ 0; 0 where ∇g = 0 or `finite` is 0"""
    a_t: Tensor
    """the barrier: how much ⟨∇g, δ⟩ has to be at least"""
    capped: Tensor
    """1 where Theorem 3.1's λ_t is above `lambda_cap`, else 0"""
    infeasible: Tensor
    """1 where ∇g = 0 and a_t > 0, else 0"""
    finite: Tensor
    """1 where all sums and g are finite and no element of δ can overflow fp32, else 0: the step must be skipped"""
    shortfall: Tensor
    """max(0, a_t − ⟨∇g, δ⟩) where capped or infeasible, else 0"""


@record_function("erasediff::multiplier")
def multiplier(
    sums: Tensor,
    *,
    eta: float,
    barrier: Barrier,
    g: Tensor | None = None,
    lambda_cap: float | None = None,
) -> Multiplier:
    """λ_t = max(0, (a_t − ⟨∇g,∇L_r⟩) / ‖∇g‖²), Theorem 3.1 of arXiv 2401.05779, without a host sync.

    sums: fp64 [3] or [6] from `inner_products_by_parameter`, already added up over all ranks; the first three are read
        for λ_t, all of them for `finite`.
    eta: η ≥ 0 of the barrier: "norm": a_t = η‖∇g‖²; "value": a_t = η·max(g, 0).
    g: 0-dim on sums' device, g = L_f(θ) − L_f(φ^K), the mean over all ranks; needed by "value".
    lambda_cap: ≥ 0, an upper limit to λ_t. It gives up the constraint: `shortfall` says by how much.

    Where the sums or g are not finite, or δ would overflow (‖∇L_r‖ + λ_t‖∇g‖ beyond fp32), `finite` is 0 and so is
    everything else: δ = ∇L_r then stays defined, and must not be applied.

    Raises ValueError for an unknown barrier, a missing g, an eta or lambda_cap out of range, or sums of another shape.
    """
    if barrier not in ("norm", "value"):
        raise ValueError(f'barrier: expected "norm" or "value", found {barrier!r}')
    if barrier == "value" and g is None:
        raise ValueError('g: barrier "value" needs g = L_f(θ) − L_f(φ^K)')
    if not (math.isfinite(eta) and eta >= 0):
        raise ValueError(f"eta: expected a finite number >= 0, found {eta}")
    if lambda_cap is not None and not lambda_cap >= 0:
        raise ValueError(f"lambda_cap: expected a number >= 0, found {lambda_cap}")
    # a kernel reads them through their pointer
    if sums.dtype != torch.float64 or sums.shape not in ((3,), (6,)) or not sums.is_contiguous():
        found = f"{sums.dtype} {list(sums.shape)}{'' if sums.is_contiguous() else ', not contiguous'}"
        raise ValueError(f"sums: expected contiguous torch.float64 [3] or [6], found {found}")
    out = torch.empty(6, dtype=torch.float64, device=sums.device)
    cap = math.inf if lambda_cap is None else lambda_cap
    if sums.is_cuda:
        from .multiplier_triton import multiplier_triton

        multiplier_triton(sums, eta, barrier == "value", g, cap, out)
    else:
        multiplier_torch(sums, eta, barrier == "value", g, cap, out)
    return Multiplier(*out.unbind())


def multiplier_torch(sums: Tensor, eta: float, value: bool, g: Tensor | None, lambda_cap: float, out: Tensor) -> None:
    """`multiplier` in plain torch, written to out; lambda_cap is inf for none."""
    finite = sums.isfinite().all()
    if g is not None:
        finite = finite & g.isfinite()
    gg, gr, rr = torch.where(finite, sums[:3], 0.0).unbind()
    zero = gg == 0
    divisor = torch.where(zero, 1.0, gg)
    if value:
        assert g is not None
        a_t = eta * torch.where(finite, g.double(), 0.0).clamp(min=0.0)
        exact = (a_t - gr) / divisor
    else:
        a_t = eta * gg
        # (η‖∇g‖² − ⟨∇g,∇L_r⟩)/‖∇g‖² without the rounding of its first product
        exact = eta - gr / divisor
    exact = torch.where(zero, 0.0, exact.clamp(min=0.0))
    capped = exact > lambda_cap
    lambda_t = exact.clamp(max=lambda_cap)
    infeasible = zero & (a_t > 0)
    shortfall = torch.where(capped | infeasible, (a_t - (gr + lambda_t * gg)).clamp(min=0.0), 0.0)
    # |δ_i| ≤ ‖∇L_r‖ + λ_t‖∇g‖
    finite = finite & (rr.sqrt() + lambda_t * gg.sqrt() < FLOAT32_MAX)
    values = torch.stack((lambda_t, a_t, capped, infeasible, finite, shortfall))
    out.copy_(torch.where(finite, values, 0.0))
