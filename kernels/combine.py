"""δ = ∇L_r + λ_t ∇g, in place of ∇L_r."""

import torch
from torch import Tensor
from torch.profiler import record_function

from .table import as_dtype, check_partitions
from .tiles import CPU_CHUNK, LARGEST, SMALLEST


@record_function("erasediff::combine_")
def combine_(g_r: Tensor, lambda_t: Tensor, g_f: Tensor, g_phi: Tensor | None = None) -> Tensor:
    """δ = g_r + λ_t·(g_f − g_phi), written over g_r in one pass; λ_t is read on the device, without a host sync.

    g_r: ∇L_r, flat partition, fp32 or bf16, overwritten and returned. g_f: ∇L_f(θ); g_phi: ∇L_f(φ^K) or None,
    partitions of the same length, fp32 or bf16. lambda_t: 0-dim, fp32 or fp64, on g_r's device.

    Computed in fp32 (λ_t too: relative error 2⁻²⁴; in fp64 where λ_t leaves fp32's range) and rounded to g_r's dtype
    at the end. λ_t = 0 does not hide a NaN in g_f.

    Raises ValueError for partitions that do not fit together, or a lambda_t that does not fit them.
    """
    check_partitions(g_r=g_r, g_f=g_f, g_phi=g_phi)
    if lambda_t.device != g_r.device:
        raise ValueError(f"lambda_t: expected on {g_r.device}, found on {lambda_t.device}")
    # a kernel reads it through its pointer
    if lambda_t.dtype not in (torch.float32, torch.float64) or lambda_t.ndim:
        found = f"{lambda_t.dtype} {list(lambda_t.shape)}"
        raise ValueError(f"lambda_t: expected 0-dim float32 or float64, found {found}")
    if g_r.is_cuda:
        from .combine_triton import combine_triton_

        return combine_triton_(g_r, lambda_t, g_f, g_phi)
    return combine_torch_(g_r, lambda_t, g_f, g_phi)


def combine_torch_(g_r: Tensor, lambda_t: Tensor, g_f: Tensor, g_phi: Tensor | None) -> Tensor:
    """`combine_` in plain torch, for the CPU."""
    multiplier = float(lambda_t)
    ordinary = multiplier == 0.0 or SMALLEST <= abs(multiplier) <= LARGEST
    if g_phi is None and ordinary and g_r.dtype == g_f.dtype:
        if g_r.dtype == torch.float32:
            return g_r.add_(g_f, alpha=multiplier)
        # `add_` would round λ_t to bf16; `addcmul_` keeps it in fp32 and is as fast
        return g_r.addcmul_(g_f, g_f.new_ones(()), value=multiplier)
    scratch = torch.empty(3, min(CPU_CHUNK, g_r.numel()), device=g_r.device)
    for start in range(0, g_r.numel(), CPU_CHUNK):
        r = g_r[start : start + CPU_CHUNK]
        d = as_dtype(g_f[start : start + CPU_CHUNK], scratch[0])
        if g_phi is not None:
            phi = as_dtype(g_phi[start : start + CPU_CHUNK], scratch[1])
            d = torch.sub(d, phi, out=scratch[1, : r.numel()])
        if ordinary:
            delta = torch.add(as_dtype(r, scratch[2]), d, alpha=multiplier, out=scratch[2, : r.numel()])
        else:
            delta = r.double().add_(d.double(), alpha=multiplier)
        r.copy_(delta)
    return g_r
