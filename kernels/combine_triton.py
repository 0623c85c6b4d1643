"""Triton form of `combine_`: one launch."""

# a kernel is Triton's language, not Python: launch options, argument types and branches mean other things
# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .index_triton import first_element
from .tiles import ELEMENTWISE_TILE, FP_FUSION, LARGEST, NUM_WARPS, SMALLEST


@triton.jit
def _combine_tile(g_r, g_f, g_phi, position, mask, lambda_t, ordinary, HAS_PHI: tl.constexpr):
    r = tl.load(g_r + position, mask=mask).to(tl.float32)
    d = tl.load(g_f + position, mask=mask).to(tl.float32)
    if HAS_PHI:
        d -= tl.load(g_phi + position, mask=mask).to(tl.float32)
    if ordinary:
        delta = tl.fma(d, lambda_t.to(tl.float32), r)
    else:
        delta = (r.to(tl.float64) + d.to(tl.float64) * lambda_t).to(tl.float32)
    tl.store(g_r + position, delta, mask=mask)


@triton.jit(do_not_specialize=["n"])
def _combine(
    g_r,
    g_f,
    g_phi,
    lambda_t,
    n,
    HAS_PHI: tl.constexpr,
    TILE: tl.constexpr,
    SMALLEST: tl.constexpr,
    LARGEST: tl.constexpr,
):
    first = first_element(tl.program_id(0), TILE)
    position = first + tl.arange(0, TILE)
    multiplier = tl.load(lambda_t).to(tl.float64)
    size = tl.abs(multiplier)
    ordinary = (size == 0.0) | ((size >= SMALLEST) & (size <= LARGEST))
    # the mask costs the wide loads, so only the last tile has one
    if first + TILE <= n:
        _combine_tile(g_r, g_f, g_phi, position, None, multiplier, ordinary, HAS_PHI)
    else:
        _combine_tile(g_r, g_f, g_phi, position, position < n, multiplier, ordinary, HAS_PHI)


def combine_triton_(g_r: Tensor, lambda_t: Tensor, g_f: Tensor, g_phi: Tensor | None) -> Tensor:
    """`combine_`."""
    if g_r.numel():
        with torch.cuda.device_of(g_r):
            _combine[(triton.cdiv(g_r.numel(), ELEMENTWISE_TILE),)](
                g_r, g_f, g_f if g_phi is None else g_phi, lambda_t, g_r.numel(),
                HAS_PHI=g_phi is not None, TILE=ELEMENTWISE_TILE, SMALLEST=SMALLEST, LARGEST=LARGEST,
                num_warps=NUM_WARPS, enable_fp_fusion=FP_FUSION,
            )  # fmt: skip
    return g_r
