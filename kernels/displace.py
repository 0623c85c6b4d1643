"""The working copy at a displaced point: cast(θ + α·v)."""

import torch
from torch import Tensor
from torch.profiler import record_function

from .table import as_dtype, check_partitions
from .tiles import CPU_CHUNK


@record_function("erasediff::displace")
def displace(out: Tensor, theta: Tensor, v: Tensor | None, alpha: float) -> Tensor:
    """out ← cast(theta + alpha·v) in one pass; out ← cast(theta) without v. theta is never written.

    out, theta, v: flat partitions of one length, fp32 or bf16 each; out is overwritten and returned. alpha: −ξ for an
    inner step of Algorithm 1, φ = θ − ξ·v. Computed in fp32 and rounded to out's dtype (to nearest even) at the end.

    Raises ValueError for partitions that do not fit together.
    """
    check_partitions(out=out, theta=theta, v=v)
    if out.is_cuda:
        from .displace_triton import displace_triton

        return displace_triton(out, theta, v, alpha)
    return displace_torch(out, theta, v, alpha)


def displace_torch(out: Tensor, theta: Tensor, v: Tensor | None, alpha: float) -> Tensor:
    """`displace` in plain torch, for the CPU."""
    if v is None:
        return out.copy_(theta)
    if out.dtype == theta.dtype == v.dtype == torch.float32:
        return torch.add(theta, v, alpha=alpha, out=out)
    scratch = torch.empty(2, min(CPU_CHUNK, out.numel()), device=out.device)
    for start in range(0, out.numel(), CPU_CHUNK):
        piece = slice(start, start + CPU_CHUNK)
        start_point, step = as_dtype(theta[piece], scratch[0]), as_dtype(v[piece], scratch[1])
        out[piece].copy_(torch.add(start_point, step, alpha=alpha, out=scratch[0, : step.numel()]))
    return out
