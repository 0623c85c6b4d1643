"""What the gradient kernels have to compute, in float64, and how far from it they may be. Any device, any size."""

import torch
from torch import Tensor

# of the product of the norms of a sum's two factors
SUMS_TOLERANCE = 1e-6

PIECE = 1 << 24


def sums(u: Tensor, v: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What `inner_products` returns, and for each the product of the norms of its factors."""
    total = torch.zeros(4, 4, dtype=torch.float64, device=u.device)
    for start in range(0, u.numel(), PIECE):
        piece = slice(start, start + PIECE)
        rows = [u[piece].double(), v[piece].double()]
        if w is not None:
            rows.append(rows[0] - w[piece].double())
        vectors = torch.stack(rows)
        total[: len(rows), : len(rows)] += vectors @ vectors.T
    u_, v_, d_ = 0, 1, 2
    pairs = [(u_, u_), (u_, v_), (v_, v_)]
    if w is not None:
        pairs = [(d_, d_), (d_, v_), (v_, v_), *pairs[:2], (u_, d_)]
    first, second = (list(side) for side in zip(*pairs, strict=True))
    norms = total.diagonal().sqrt()
    return total[first, second], norms[first] * norms[second]


def sums_error(found: Tensor, u: Tensor, v: Tensor, w: Tensor | None = None) -> float:
    """The largest error of the sums in units of their norms; 0 where both are 0."""
    expected, scale = sums(u, v, w)
    error = (found - expected).abs()
    return float(torch.where(error == 0, 0.0, error / scale).max())


def elementwise_error(found: Tensor, expected: Tensor, magnitude: Tensor) -> float:
    """The largest error in units of its bound: half a unit in the last place of found's dtype, and 4 fp32 roundings.

    expected, magnitude: float64; magnitude is the sum of the terms' absolute values.
    """
    smallest = torch.finfo(found.dtype).smallest_normal
    bound = (torch.finfo(found.dtype).eps / 2 + 2**-22) * magnitude.clamp(min=smallest)
    return float(((found.double() - expected).abs() / bound).max()) if found.numel() else 0.0
