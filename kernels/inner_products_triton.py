"""Triton form of `inner_products_by_parameter`: three launches, whatever the number of parameters."""

# a kernel is Triton's language, not Python: launch options, argument types and branches mean other things
# pyright: reportArgumentType=false, reportCallIssue=false, reportInvalidTypeForm=false, reportOperatorIssue=false
# pyright: reportPossiblyUnboundVariable=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .table import ParameterTable
from .tiles import (
    ALIGNMENT,
    FIRST_ORDER_REGISTERS,
    FP_FUSION,
    NUM_WARPS,
    PROGRAMS_PER_SM,
    REDUCTION_TILE,
    REDUCTION_TILE_AGAIN,
    REGISTERS,
    ROW_TILE,
    ROW_WARPS,
    SMALL,
    TOTAL_TILE,
    TOTAL_WARPS,
)


@triton.jit
def _load(partition, first, lanes, start, end, whole):
    # the mask costs the wide loads, so only the tiles at the ends of a chunk have one
    if whole:
        x = tl.load(partition + first + lanes).to(tl.float32)
    else:
        position = first + lanes
        x = tl.load(partition + position, mask=(position >= start) & (position < end), other=0.0).to(tl.float32)
    return x


@triton.jit
def _sums_of_chunk(
    u,
    v,
    w,
    start,
    end,
    origin,
    out,
    stride,
    ACCUMULATOR: tl.constexpr,
    HAS_W: tl.constexpr,
    TILE: tl.constexpr,
):
    """Store the chunk's sums from `out` on, `stride` apart.

    Returns the smallest of the squared norms, and a number that is finite where all sums are.
    """
    lanes = tl.arange(0, TILE)
    uv = tl.full((TILE,), 0.0, ACCUMULATOR)
    vv = tl.full((TILE,), 0.0, ACCUMULATOR)
    uu = tl.full((TILE,), 0.0, ACCUMULATOR)
    dd = tl.full((TILE,), 0.0, ACCUMULATOR)
    dv = tl.full((TILE,), 0.0, ACCUMULATOR)
    ud = tl.full((TILE,), 0.0, ACCUMULATOR)
    for tile in range(tl.cdiv(end - origin, TILE)):
        first = origin + tile * TILE
        whole = (first >= start) & (first + TILE <= end)
        a32 = _load(u, first, lanes, start, end, whole)
        a = a32.to(ACCUMULATOR)
        b = _load(v, first, lanes, start, end, whole).to(ACCUMULATOR)
        uu = tl.fma(a, a, uu)
        uv = tl.fma(a, b, uv)
        vv = tl.fma(b, b, vv)
        if HAS_W:
            # in fp32 whatever the accumulators, as `combine_` forms it
            d = (a32 - _load(w, first, lanes, start, end, whole)).to(ACCUMULATOR)
            dd = tl.fma(d, d, dd)
            dv = tl.fma(d, b, dv)
            ud = tl.fma(a, d, ud)
    # in fp64: the rounding of an fp32 tree is alike in all chunks where elements are, and adds up over them
    sum_uu = tl.sum(uu.to(tl.float64))
    sum_uv = tl.sum(uv.to(tl.float64))
    sum_vv = tl.sum(vv.to(tl.float64))
    smallest = tl.minimum(sum_uu, sum_vv)
    magnitude = sum_uu + tl.abs(sum_uv) + sum_vv
    if HAS_W:
        sum_dd = tl.sum(dd.to(tl.float64))
        sum_dv = tl.sum(dv.to(tl.float64))
        sum_ud = tl.sum(ud.to(tl.float64))
        tl.store(out, sum_dd)
        tl.store(out + stride, sum_dv)
        tl.store(out + 2 * stride, sum_vv)
        tl.store(out + 3 * stride, sum_uu)
        tl.store(out + 4 * stride, sum_uv)
        tl.store(out + 5 * stride, sum_ud)
        smallest = tl.minimum(smallest, sum_dd)
        magnitude += sum_dd + tl.abs(sum_dv) + tl.abs(sum_ud)
    else:
        tl.store(out, sum_uu)
        tl.store(out + stride, sum_uv)
        tl.store(out + 2 * stride, sum_vv)
    return smallest, magnitude


@triton.jit(do_not_specialize=["num_chunks"])
def _chunk_sums(
    u,
    v,
    w,
    bounds,
    partials,  # fp64 [3 or 6, num_chunks]
    num_chunks,
    HAS_W: tl.constexpr,
    TILE: tl.constexpr,
    TILE_AGAIN: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    SMALL: tl.constexpr,
):
    for chunk in range(tl.program_id(0), num_chunks, tl.num_programs(0)):
        start = tl.load(bounds + chunk * 3)
        end = tl.load(bounds + chunk * 3 + 1)
        origin = tl.multiple_of(start // ALIGNMENT * ALIGNMENT, ALIGNMENT)
        out = partials + chunk
        found = _sums_of_chunk(u, v, w, start, end, origin, out, num_chunks, tl.float32, HAS_W, TILE)
        smallest, magnitude = found  # pyright: ignore[reportGeneralTypeIssues]
        # over- or underflow, rare: this chunk again in fp64, over what was stored
        safe = (smallest > SMALL) & (magnitude < float("inf"))
        if not safe:
            _sums_of_chunk(u, v, w, start, end, origin, out, num_chunks, tl.float64, HAS_W, TILE_AGAIN)


@triton.jit(do_not_specialize=["sum_stride", "count"])
def _add_up(
    partials,  # fp64 [k, count], strides (sum_stride, stride)
    sum_stride,
    stride,
    rows,
    count,
    sums,  # fp64 [P, k]
    HAS_ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(0)
    column = tl.program_id(1)
    if HAS_ROWS:
        start = tl.load(rows + row)
        end = tl.load(rows + row + 1)
    else:
        start = tl.full((), 0, tl.int64)
        end = start + count
    total = tl.full((TILE,), 0.0, tl.float64)
    for first in range(start, end, TILE):
        position = first + tl.arange(0, TILE)
        total += tl.load(partials + column * sum_stride + position * stride, mask=position < end, other=0.0)
    tl.store(sums + row * tl.num_programs(1) + column, tl.sum(total))


def inner_products_by_parameter_triton(
    u: Tensor, v: Tensor, w: Tensor | None = None, *, table: ParameterTable, num_programs: int | None = None
) -> tuple[Tensor, Tensor]:
    """`inner_products_by_parameter`; num_programs does not change the result."""
    partials = _partials(u, v, w, table, num_programs)
    num_sums = len(partials)
    by_parameter = torch.empty(table.num_parameters, num_sums, dtype=torch.float64, device=u.device)
    sums = torch.empty(num_sums, dtype=torch.float64, device=u.device)
    with torch.cuda.device_of(u):
        if table.num_parameters:
            rows = table.chunks(u.device).rows
            _add_up[(table.num_parameters, num_sums)](
                partials, partials.stride(0), 1, rows, 0, by_parameter,
                HAS_ROWS=True, TILE=ROW_TILE, num_warps=ROW_WARPS, enable_fp_fusion=FP_FUSION,
            )  # fmt: skip
    _total(by_parameter.T, sums)
    return sums, by_parameter


def _partials(u: Tensor, v: Tensor, w: Tensor | None, table: ParameterTable, num_programs: int | None) -> Tensor:
    """The sums of each chunk, fp64 [3 or 6, chunks]."""
    bounds = table.chunks(u.device).bounds
    num_chunks = len(bounds)
    partials = torch.empty(3 if w is None else 6, num_chunks, dtype=torch.float64, device=u.device)
    if num_chunks:
        programs = num_programs or PROGRAMS_PER_SM * torch.cuda.get_device_properties(u.device).multi_processor_count
        with torch.cuda.device_of(u):
            _chunk_sums[(min(programs, num_chunks),)](
                u, v, u if w is None else w, bounds, partials, num_chunks,
                HAS_W=w is not None, TILE=REDUCTION_TILE, TILE_AGAIN=REDUCTION_TILE_AGAIN, ALIGNMENT=ALIGNMENT,
                SMALL=SMALL, num_warps=NUM_WARPS, maxnreg=REGISTERS if w is None else FIRST_ORDER_REGISTERS,
                enable_fp_fusion=FP_FUSION,
            )  # fmt: skip
    return partials


def _total(partials: Tensor, sums: Tensor) -> None:
    """Add up [k, count] in fp64, in one fixed order, to [k]."""
    num_sums, count = partials.shape
    with torch.cuda.device_of(sums):
        _add_up[(1, num_sums)](
            partials, partials.stride(0), partials.stride(1), partials, count, sums,
            HAS_ROWS=False, TILE=TOTAL_TILE, num_warps=TOTAL_WARPS, enable_fp_fusion=FP_FUSION,
        )  # fmt: skip
