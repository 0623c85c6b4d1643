"""δ = ∇L_r + λ_t ∇g, in place of ∇L_r."""

import torch
from torch import Tensor

from .table import ParameterTable, as_dtype, check_shards, check_table
from .tiles import CPU_CHUNK, LARGEST, SMALLEST


def combine_(
    g_r: Tensor,
    lambda_t: Tensor,
    g_f: Tensor,
    g_phi: Tensor | None = None,
    *,
    table: ParameterTable | None = None,
    group_of: Tensor | None = None,
) -> Tensor:
    """δ = g_r + λ_t·(g_f − g_phi), written over g_r in one pass; λ_t is read on the device, without a host sync.

    g_r: ∇L_r, flat shard, fp32 or bf16, overwritten and returned. g_f: ∇L_f(θ); g_phi: ∇L_f(φ^K) or None, shards of
    the same length, fp32 or bf16.
    lambda_t: fp32 or fp64, contiguous, on g_r's device: 0-dim; or [G], one per group of parameters, with
        table: the pieces of the shard, P parameters (what it does not cover stays as it is), and
        group_of: int64 [P], contiguous, on g_r's device, each parameter's group, 0 ≤ group < G (not checked: that
        would need a host sync).

    Computed in fp32 (λ_t too: relative error 2⁻²⁴; in fp64 where λ_t leaves fp32's range) and rounded to g_r's dtype
    at the end. λ_t = 0 does not hide a NaN in g_f.

    Raises ValueError for shards that do not fit together, or a lambda_t, table or group_of that does not fit them.
    """
    check_shards(g_r=g_r, g_f=g_f, g_phi=g_phi)
    if lambda_t.device != g_r.device:
        raise ValueError(f"lambda_t: expected on {g_r.device}, found on {lambda_t.device}")
    # a kernel reads both through their pointers
    if lambda_t.dtype not in (torch.float32, torch.float64) or not lambda_t.is_contiguous():
        found = f"{lambda_t.dtype}{'' if lambda_t.is_contiguous() else ', not contiguous'}"
        raise ValueError(f"lambda_t: expected contiguous float32 or float64, found {found}")
    if (lambda_t.ndim == 1) != (table is not None) or (table is None) != (group_of is None) or lambda_t.ndim > 1:
        raise ValueError(f"lambda_t: expected 0-dim, or [G] with table and group_of, found {list(lambda_t.shape)}")
    if table is not None and group_of is not None:
        check_table(table, g_r)
        expected = (torch.int64, (table.num_parameters,), g_r.device)
        found = (group_of.dtype, tuple(group_of.shape), group_of.device)
        if found != expected or not group_of.is_contiguous():
            raise ValueError(f"group_of: expected contiguous {expected}, found {found}")
    if g_r.is_cuda:
        from .combine_triton import combine_triton_

        return combine_triton_(g_r, lambda_t, g_f, g_phi, table, group_of)
    return combine_torch_(g_r, lambda_t, g_f, g_phi, table, group_of)


def combine_torch_(
    g_r: Tensor,
    lambda_t: Tensor,
    g_f: Tensor,
    g_phi: Tensor | None,
    table: ParameterTable | None = None,
    group_of: Tensor | None = None,
) -> Tensor:
    """`combine_` in plain torch, for the CPU."""
    if table is None or group_of is None:
        return _combine_piece_(g_r, float(lambda_t), g_f, g_phi)
    by_parameter = lambda_t[group_of].tolist()
    for parameter, offset, length in table.segments.tolist():
        piece = slice(offset, offset + length)
        phi = None if g_phi is None else g_phi[piece]
        _combine_piece_(g_r[piece], by_parameter[parameter], g_f[piece], phi)
    return g_r


def _combine_piece_(g_r: Tensor, multiplier: float, g_f: Tensor, g_phi: Tensor | None) -> Tensor:
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
