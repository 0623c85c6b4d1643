"""δ = ∇L_r + λ_t ∇g, in place of ∇L_r."""

import torch
from torch import Tensor

from .shard import check_shards

# elements at a time: the fp32 scratch stays in cache
CPU_CHUNK = 65_536

# λ_t beyond this is applied as a product of two factors, as it may exceed fp32 while λ_t ∇g does not
LARGE = 2.0**126


def combine_(g_r: Tensor, lambda_t: Tensor, g_f: Tensor, g_phi: Tensor | None = None) -> Tensor:
    """δ = g_r + λ_t·(g_f − g_phi), written over g_r; λ_t is read on the device, without a host sync.

    g_r: ∇L_r, flat shard, fp32 or bf16, overwritten and returned. g_f: ∇L_f(θ); g_phi: ∇L_f(φ^K) or None, shards of
    the same length, fp32 or bf16. lambda_t: 0-dim, fp32 or fp64, on g_r's device.

    Computed in fp32 (λ_t too: relative error 2⁻²⁴) and rounded to g_r's dtype at the end. λ_t up to 2²⁵³ is exact in
    that sense wherever δ itself fits; λ_t = 0 does not hide a NaN in g_f.

    Raises ValueError for shards that do not fit together, or a lambda_t elsewhere.
    """
    check_shards(g_r=g_r, g_f=g_f, g_phi=g_phi)
    if lambda_t.ndim != 0 or lambda_t.device != g_r.device:
        raise ValueError(f"lambda_t: expected 0-dim on {g_r.device}, found {list(lambda_t.shape)} on {lambda_t.device}")
    return combine_torch_(g_r, lambda_t, g_f, g_phi)


def combine_torch_(g_r: Tensor, lambda_t: Tensor, g_f: Tensor, g_phi: Tensor | None = None) -> Tensor:
    """`combine_` in plain torch."""
    multiplier = float(lambda_t)
    large = abs(multiplier) > LARGE
    if large:
        multiplier /= LARGE
    if g_phi is None and not large and g_r.dtype == g_f.dtype == torch.float32:
        return g_r.add_(g_f, alpha=multiplier)
    scratch = torch.empty(3, min(CPU_CHUNK, g_r.numel()), device=g_r.device)
    for start in range(0, g_r.numel(), CPU_CHUNK):
        r = g_r[start : start + CPU_CHUNK]
        delta, d, phi = scratch[:, : r.numel()]
        d.copy_(g_f[start : start + CPU_CHUNK])
        if g_phi is not None:
            d.sub_(phi.copy_(g_phi[start : start + CPU_CHUNK]))
        if large:
            d.mul_(LARGE)
        r.copy_(delta.copy_(r).add_(d, alpha=multiplier))
    return g_r
