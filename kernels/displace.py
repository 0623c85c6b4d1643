"""The working copy at a displaced point: cast(θ + α·v)."""

import torch
from torch import Tensor

from .shard import check_shards

# elements at a time: the fp32 scratch stays in cache
CPU_CHUNK = 65_536


def displace(out: Tensor, theta: Tensor, v: Tensor | None, alpha: float) -> Tensor:
    """out ← cast(theta + alpha·v) in one pass; out ← cast(theta) without v. theta is never written.

    out, theta, v: flat shards of one length, fp32 or bf16 each; out is overwritten and returned. alpha: −ξ for an
    inner step of Algorithm 1, φ = θ − ξ·v. Computed in fp32 and rounded to out's dtype (to nearest even) at the end.

    Raises ValueError for shards that do not fit together.
    """
    check_shards(out=out, theta=theta, v=v)
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
        piece = out[start : start + CPU_CHUNK]
        phi, step = scratch[:, : piece.numel()]
        step.copy_(v[start : start + CPU_CHUNK])
        piece.copy_(phi.copy_(theta[start : start + CPU_CHUNK]).add_(step, alpha=alpha))
    return out
