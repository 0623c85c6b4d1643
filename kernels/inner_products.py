"""The inner products that λ_t needs (Theorem 3.1), in one read of the gradients, in all and per parameter."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .table import ParameterTable, as_dtype, check_partitions, check_table
from .tiles import CPU_CHUNK, CPU_ROW, FIRST_ORDER_CPU_ROW, SMALL


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
    """`inner_products_by_parameter` in plain torch, for the CPU."""
    pieces = [
        (parameter, start, end)
        for parameter, offset, length in table.segments.tolist()
        for start, end in _cut(offset, length)
    ]
    sums = _sums_of(u, v, w, [(start, end) for _, start, end in pieces])
    by_parameter = sums.new_zeros(table.num_parameters, sums.shape[1])
    by_parameter.index_add_(0, torch.tensor([parameter for parameter, _, _ in pieces], dtype=torch.int64), sums)
    return by_parameter.sum(0), by_parameter


def _cut(offset: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(offset, offset + length, 2 * CPU_CHUNK):
        yield start, min(start + 2 * CPU_CHUNK, offset + length)


def _sums_of(u: Tensor, v: Tensor, w: Tensor | None, pieces: list[tuple[int, int]]) -> Tensor:
    """The sums of each piece (start, end), fp64 [pieces, 3 or 6].

    Products and sums of rows, not `Tensor.dot`: that adds hundreds of elements in a row in fp32 (2e-5 off where all are
    equal) and its bits depend on how the memory is aligned.
    """
    num_sums = 3 if w is None else 6
    sums = _products(u, v, w, pieces, torch.float32)
    norms = sums[:, 0::2] if w is None else sums[:, [0, 2, 3]]
    # over- or underflow, rare: these pieces again in fp64
    unsafe = ~((norms > SMALL).all(1) & sums.isfinite().all(1))
    again = unsafe.nonzero().flatten().tolist()
    if again:
        sums[again] = _products(u, v, w, [pieces[i] for i in again], torch.float64)
    return sums.view(-1, num_sums)


def _products(u: Tensor, v: Tensor, w: Tensor | None, pieces: list[tuple[int, int]], dtype: torch.dtype) -> Tensor:
    num_sums = 3 if w is None else 6
    size = min(max((end - start for start, end in pieces), default=0), CPU_CHUNK)
    scratch = torch.empty(3, size, dtype=dtype)
    difference = torch.empty(2, size if w is not None else 0)

    def factors(start: int, end: int) -> list[tuple[Tensor, Tensor]]:
        a, b = as_dtype(u[start:end], scratch[0]), as_dtype(v[start:end], scratch[1])
        if w is None:
            return [(a, a), (a, b), (b, b)]
        # in fp32 for every dtype, as `combine_` forms it: the KKT conditions hold for the d that is applied
        d32 = difference[0, : end - start]
        torch.sub(as_dtype(u[start:end], difference[0]), as_dtype(w[start:end], difference[1]), out=d32)
        d = as_dtype(d32, scratch[2])
        return [(d, d), (d, b), (b, b), (a, a), (a, b), (a, d)]

    # the products in rows; of any number of elements, since zeros fill the last row up
    row = CPU_ROW if w is None else FIRST_ORDER_CPU_ROW
    products = torch.empty(num_sums, -(-size // row), row, dtype=dtype)
    flat = products.flatten(1)
    sums: list[Tensor] = []
    for start, end in pieces:
        middle = min(start + CPU_CHUNK, end)
        length, filled_rows = middle - start, -(-(middle - start) // row)
        for (x, y), product in zip(factors(start, middle), flat, strict=True):
            torch.mul(x, y, out=product[:length])
        if middle < end:
            for (x, y), product in zip(factors(middle, end), flat, strict=True):
                product[: end - middle].addcmul_(x, y)
        if length % row:
            flat[:, length : filled_rows * row].zero_()
        sums.append(products[:, :filled_rows].sum(2).sum(1, dtype=torch.float64))
    return torch.stack(sums) if sums else scratch.new_zeros(0, num_sums, dtype=torch.float64)
