"""The inner products that λ_t needs (Theorem 3.1), in one read of the gradients, in all and per parameter."""

import torch
from torch import Tensor
from torch.profiler import record_function

from .table import ParameterTable, check_partitions, check_table
from .tiles import CPU_CHUNK, CPU_ROW, FIRST_ORDER_CPU_ROW, SMALL


@record_function("erasediff::inner_products")
def inner_products_by_parameter(
    u: Tensor, v: Tensor, w: Tensor | None = None, *, table: ParameterTable
) -> tuple[Tensor, Tensor]:
    """The inner products of a rank's partitions, in all and per parameter, on u's device, without a host sync.

    u, v, w: flat partitions, fp32 or bf16 each, of equal length (0 allowed): u = ∇L_f(θ), v = ∇L_r, w = ∇L_f(φ^K).
    table: the pieces of the partition; elements that it does not cover count nowhere.
    Returns (sums [3 or 6], by_parameter [P, 3 or 6]), fp64:
        without w: ⟨u,u⟩, ⟨u,v⟩, ⟨v,v⟩
        with w: ⟨d,d⟩, ⟨d,v⟩, ⟨v,v⟩, ⟨u,u⟩, ⟨u,v⟩, ⟨u,d⟩, where d = u − w in fp32, element by element
    so that the first three are ⟨∇g,∇g⟩, ⟨∇g,∇L_r⟩, ⟨∇L_r,∇L_r⟩ either way. They cover this rank's partition only, and a
    parameter with no piece on this rank has a row of zeros: all ranks add theirs up.

    |result − exact| ≤ 1e-6 · ‖u‖‖v‖ (with w: d in place of u). The same data give the same bits, on CUDA at the same
    alignment (that of a tensor of its own is always the same). NaN and Inf propagate, and nothing else gives them: any
    fp32 scale will do.

    Raises ValueError for partitions that do not fit together or a table that reaches past their end.
    """
    check_partitions(u=u, v=v, w=w)
    check_table(table, u)
    if u.is_cuda:
        from .inner_products_triton import inner_products_by_parameter_triton

        return inner_products_by_parameter_triton(u, v, w, table=table)
    return inner_products_by_parameter_torch(u, v, w, table)


def first_non_finite(by_parameter: Tensor) -> Tensor:
    """The first parameter with a NaN or Inf in its row of by_parameter [P, k]: 0-dim int64, −1 where all are finite.

    Stays on the device, without a host sync. by_parameter is to be added up over all ranks before.
    """
    bad = ~by_parameter.isfinite().all(1)
    order = torch.arange(len(bad), device=bad.device)
    first = torch.where(bad, order, len(bad)).amin() if len(bad) else order.new_zeros(())
    return torch.where(first == len(bad), -1, first)


def inner_products_by_parameter_torch(
    u: Tensor, v: Tensor, w: Tensor | None, table: ParameterTable
) -> tuple[Tensor, Tensor]:
    """`inner_products_by_parameter` in plain torch, for the CPU.

    A number of calls that does not grow with the number of parameters: the partition is multiplied a chunk at a time
    and summed up in rows, each row is added to its parameter in fp64, and what of a parameter fills no whole row is
    gathered into rows of its own. One product is summed up before the next, so that the scratch stays in a core's own
    cache.
    """
    num_sums, row = (3, CPU_ROW) if w is None else (6, FIRST_ORDER_CPU_ROW)
    rows = table.cpu_rows(row)
    # one parameter more: of rows that are no parameter's own
    by_parameter = torch.zeros(num_sums, table.num_parameters + 1, dtype=torch.float64)
    product = torch.empty(min(CPU_CHUNK, len(rows.parameters) * row))
    for start in range(0, len(rows.parameters) * row, CPU_CHUNK):
        chunk = slice(start, min(start + CPU_CHUNK, len(rows.parameters) * row))
        parameters = rows.parameters[chunk.start // row : chunk.stop // row]
        factors = _factors(u[chunk], v[chunk], None if w is None else w[chunk], torch.float32)
        _add_rows(by_parameter, parameters, factors, product[: chunk.stop - chunk.start], row)
    if len(rows.rest):
        pieces = (None if x is None else torch.where(rows.is_rest, x[rows.rest], 0) for x in (u, v, w))
        rest_u, rest_v, rest_w = pieces
        assert rest_u is not None and rest_v is not None
        factors = _factors(rest_u, rest_v, rest_w, torch.float32)
        _add_rows(by_parameter, rows.rest_parameters, factors, torch.empty(rest_u.numel()), row)
    by_parameter = by_parameter[:, :-1].T.contiguous()
    _again_in_fp64(by_parameter, u, v, w, table)
    return by_parameter.sum(0), by_parameter


def _factors(u: Tensor, v: Tensor, w: Tensor | None, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """What is multiplied element by element for each of the sums, flat."""
    a, b = u.flatten().to(dtype), v.flatten().to(dtype)
    if w is None:
        return [(a, a), (a, b), (b, b)]
    # in fp32 for every dtype, as `combine_` forms it: the KKT conditions hold for the d that is applied
    d = (u.flatten().float() - w.flatten().float()).to(dtype)
    return [(d, d), (d, b), (b, b), (a, a), (a, b), (a, d)]


def _add_rows(
    by_parameter: Tensor, parameters: Tensor, factors: list[tuple[Tensor, Tensor]], product: Tensor, row: int
) -> None:
    """Adds each row's sum of products, of torch's own in fp32, to its parameter, in fp64. `product` is scratch.

    Not `Tensor.dot`: that adds hundreds of elements in a row in fp32 (2e-5 off where all are equal) and its bits depend
    on how the memory is aligned.
    """
    for total, (x, y) in zip(by_parameter, factors, strict=True):
        torch.mul(x, y, out=product)
        total.index_add_(0, parameters, product.unflatten(0, (-1, row)).sum(1).double())


def _again_in_fp64(by_parameter: Tensor, u: Tensor, v: Tensor, w: Tensor | None, table: ParameterTable) -> None:
    """Where fp32 has over- or underflown, rare: the parameter's sums again."""
    norms = by_parameter[:, 0::2] if w is None else by_parameter[:, [0, 2, 3]]
    unsafe = ~((norms > SMALL).all(1) & by_parameter.isfinite().all(1))
    unsafe &= table.has_elements
    if not unsafe.any():
        return
    by_parameter[unsafe] = 0
    for parameter, offset, length in table.segments[unsafe[table.segments[:, 0]]].tolist():
        for start in range(offset, offset + length, CPU_CHUNK):
            piece = slice(start, min(start + CPU_CHUNK, offset + length))
            factors = _factors(u[piece], v[piece], None if w is None else w[piece], by_parameter.dtype)
            by_parameter[parameter] += torch.stack([x.mul(y) for x, y in factors]).sum(1)
