"""Triton form of `combine_`: one launch."""

# a kernel is Triton's language, not Python: launch options, argument types and branches mean other things
# pyright: reportCallIssue=false, reportInvalidTypeForm=false, reportPossiblyUnboundVariable=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .index_triton import first_element
from .table import ParameterTable
from .tiles import (
    ALIGNMENT,
    ELEMENTWISE_TILE,
    FP_FUSION,
    LARGEST,
    NUM_WARPS,
    SMALLEST,
)


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
    lambda_t,  # a scalar, or a vector over groups
    bounds,
    group_of,
    n,
    HAS_PHI: tl.constexpr,
    HAS_GROUPS: tl.constexpr,
    TILE: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    SMALLEST: tl.constexpr,
    LARGEST: tl.constexpr,
):
    piece = tl.program_id(0)
    lanes = tl.arange(0, TILE)
    if HAS_GROUPS:
        start = tl.load(bounds + piece * 3)
        end = tl.load(bounds + piece * 3 + 1)
        origin = tl.multiple_of(start // ALIGNMENT * ALIGNMENT, ALIGNMENT)
        multiplier = tl.load(lambda_t + tl.load(group_of + tl.load(bounds + piece * 3 + 2)))
    else:
        start = first_element(piece, TILE)
        end = tl.minimum(start + TILE, n)
        origin = start
        multiplier = tl.load(lambda_t)
    multiplier = multiplier.to(tl.float64)
    size = tl.abs(multiplier)
    ordinary = (size == 0.0) | ((size >= SMALLEST) & (size <= LARGEST))
    for tile in range(tl.cdiv(end - origin, TILE)):
        first = origin + tile * TILE
        position = first + lanes
        # the mask costs the wide loads, so only the tiles at the ends have one
        if (first >= start) & (first + TILE <= end):
            _combine_tile(g_r, g_f, g_phi, position, None, multiplier, ordinary, HAS_PHI)
        else:
            mask = (position >= start) & (position < end)
            _combine_tile(g_r, g_f, g_phi, position, mask, multiplier, ordinary, HAS_PHI)


def combine_triton_(
    g_r: Tensor,
    lambda_t: Tensor,
    g_f: Tensor,
    g_phi: Tensor | None,
    table: ParameterTable | None = None,
    group_of: Tensor | None = None,
) -> Tensor:
    """`combine_`."""
    bounds = None if table is None else table.chunks(g_r.device).bounds
    num_pieces = triton.cdiv(g_r.numel(), ELEMENTWISE_TILE) if bounds is None else len(bounds)
    if num_pieces:
        with torch.cuda.device_of(g_r):
            _combine[(num_pieces,)](
                g_r, g_f, g_f if g_phi is None else g_phi, lambda_t,
                g_r if bounds is None else bounds, g_r if group_of is None else group_of, g_r.numel(),
                HAS_PHI=g_phi is not None, HAS_GROUPS=bounds is not None,
                TILE=ELEMENTWISE_TILE, ALIGNMENT=ALIGNMENT, SMALLEST=SMALLEST, LARGEST=LARGEST,
                num_warps=NUM_WARPS, enable_fp_fusion=FP_FUSION,
            )  # fmt: skip
    return g_r
