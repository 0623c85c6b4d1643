"""The inner products that λ_t needs (Theorem 3.1), in one read of the gradients, in all and per parameter."""

import torch
from torch import Tensor

from .shard import ParameterTable, check_shards

# elements converted at a time: large enough to hide the calls, small enough for the cache
CPU_CHUNK = 65_536


def inner_products(u: Tensor, v: Tensor, w: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
    """The inner products of a rank's shards, on u's device, without a host sync.

    u, v, w: flat shards, fp32 or bf16 each, of equal length (0 allowed): u = ∇L_f(θ), v = ∇L_r, w = ∇L_f(φ^K).
    Returns fp64, written to `out` where given (a piece of the step's packet):
        without w, [3]: ⟨u,u⟩, ⟨u,v⟩, ⟨v,v⟩
        with w, [6]: ⟨d,d⟩, ⟨d,v⟩, ⟨v,v⟩, ⟨u,u⟩, ⟨u,v⟩, ⟨u,d⟩, where d = u − w in fp32, element by element
    so that the first three are ⟨∇g,∇g⟩, ⟨∇g,∇L_r⟩, ⟨∇L_r,∇L_r⟩ either way. They cover this rank's shard only: all
    ranks add theirs up.

    |result − exact| ≤ 1e-6 · ‖u‖‖v‖ (with w: d in place of u). NaN and Inf propagate.

    Raises ValueError for shards that do not fit together.
    """
    check_shards(u=u, v=v, w=w)
    sums = inner_products_torch(u, v, w)
    return sums if out is None else out.copy_(sums)


def inner_products_by_parameter(
    u: Tensor, v: Tensor, w: Tensor | None = None, *, table: ParameterTable
) -> tuple[Tensor, Tensor]:
    """`inner_products` and the same per parameter, from one read of the gradients.

    u, v, w: as for `inner_products`. table: the pieces of the shard; elements that it does not cover count nowhere.
    Returns (sums [3 or 6], by_parameter [P, 3 or 6]), fp64 on u's device. A parameter with no piece on this rank has
    a row of zeros: all ranks add theirs up.

    Raises ValueError for shards that do not fit together or a table that reaches past their end.
    """
    check_shards(u=u, v=v, w=w)
    if table.end > u.numel():
        raise ValueError(f"table: reaches element {table.end}, the shards have {u.numel()}")
    return inner_products_by_parameter_torch(u, v, w, table)


def first_non_finite(by_parameter: Tensor) -> Tensor:
    """The first parameter with a NaN or Inf in its row of by_parameter [P, k]: 0-dim int64, −1 where all are finite.

    Stays on the device, without a host sync. by_parameter is to be added up over all ranks before.
    """
    bad = ~by_parameter.isfinite().all(1)
    order = torch.arange(len(bad), device=bad.device)
    first = torch.where(bad, order, len(bad)).amin() if len(bad) else order.new_tensor(0)
    return torch.where(first == len(bad), -1, first)


def inner_products_torch(u: Tensor, v: Tensor, w: Tensor | None = None) -> Tensor:
    """`inner_products` in plain torch: fp64 throughout, so any fp32 scale is safe (squares of 1e30 or 1e-30)."""
    dots = _Dots(u, w)
    return sum(dots.chunks(u, v, w, 0, u.numel()), torch.zeros(dots.num_sums, dtype=torch.float64, device=u.device))


def inner_products_by_parameter_torch(
    u: Tensor, v: Tensor, w: Tensor | None, table: ParameterTable
) -> tuple[Tensor, Tensor]:
    """`inner_products_by_parameter` in plain torch, fp64 throughout."""
    dots = _Dots(u, w)
    by_parameter = torch.zeros(table.num_parameters, dots.num_sums, dtype=torch.float64, device=u.device)
    for parameter, offset, length in table.segments.tolist():
        for sums in dots.chunks(u, v, w, offset, length):
            by_parameter[parameter] += sums
    return by_parameter.sum(0), by_parameter


class _Dots:
    """Scratch for fp64 copies of one chunk of each shard."""

    def __init__(self, u: Tensor, w: Tensor | None):
        self.num_sums = 3 if w is None else 6
        size = min(CPU_CHUNK, u.numel())
        self.scratch = torch.empty(2 if w is None else 3, size, dtype=torch.float64, device=u.device)
        self.difference = torch.empty(2, size if w is not None else 0, device=u.device)

    def chunks(self, u: Tensor, v: Tensor, w: Tensor | None, offset: int, length: int):
        for start in range(offset, offset + length, CPU_CHUNK):
            end = min(start + CPU_CHUNK, offset + length)
            a, b = self.scratch[0, : end - start], self.scratch[1, : end - start]
            a.copy_(u[start:end])
            b.copy_(v[start:end])
            if w is None:
                yield torch.stack((a.dot(a), a.dot(b), b.dot(b)))
                continue
            # d is rounded to fp32, as `combine_` forms it: the KKT conditions then hold for the d that is applied
            u32, d32 = self.difference[0, : end - start], self.difference[1, : end - start]
            torch.sub(u32.copy_(u[start:end]), d32.copy_(w[start:end]), out=d32)
            d = self.scratch[2, : end - start].copy_(d32)
            yield torch.stack((d.dot(d), d.dot(b), b.dot(b), a.dot(a), a.dot(b), a.dot(d)))
