"""Triton form of `displace`: one launch."""

# a kernel is Triton's language, not Python: launch options, argument types and branches mean other things
# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .index_triton import first_element
from .tiles import ELEMENTWISE_TILE, FP_FUSION, NUM_WARPS


@triton.jit
def _displace_tile(out, theta, v, position, mask, alpha, HAS_V: tl.constexpr):
    phi = tl.load(theta + position, mask=mask).to(tl.float32)
    if HAS_V:
        phi = tl.fma(tl.load(v + position, mask=mask).to(tl.float32), alpha, phi)
    tl.store(out + position, phi, mask=mask)


@triton.jit(do_not_specialize=["n"])
def _displace(out, theta, v, n, alpha: tl.float32, HAS_V: tl.constexpr, TILE: tl.constexpr):
    first = first_element(tl.program_id(0), TILE)
    position = first + tl.arange(0, TILE)
    # the mask costs the wide loads, so only the last tile has one
    if first + TILE <= n:
        _displace_tile(out, theta, v, position, None, alpha, HAS_V)
    else:
        _displace_tile(out, theta, v, position, position < n, alpha, HAS_V)


def displace_triton(out: Tensor, theta: Tensor, v: Tensor | None, alpha: float) -> Tensor:
    """`displace`."""
    if out.numel():
        with torch.cuda.device_of(out):
            _displace[(triton.cdiv(out.numel(), ELEMENTWISE_TILE),)](
                out, theta, theta if v is None else v, out.numel(), alpha,
                HAS_V=v is not None, TILE=ELEMENTWISE_TILE, num_warps=NUM_WARPS, enable_fp_fusion=FP_FUSION,
            )  # fmt: skip
    return out
