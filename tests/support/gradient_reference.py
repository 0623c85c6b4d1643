"""What the gradient kernels have to compute, in float64, and how far from it they may be. Any device, any size."""

import torch
from torch import Tensor

# of the product of the norms of a sum's two factors
SUMS_TOLERANCE = 1e-6

PIECE = 1 << 24


def sums(u: Tensor, v: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The sums that `inner_products_by_parameter` returns, and for each the product of the norms of its factors."""
    pairs = [(0, 0), (0, 1), (1, 1)] if w is None else [(2, 2), (2, 1), (1, 1), (0, 0), (0, 1), (0, 2)]
    total = torch.zeros(len(pairs), dtype=torch.float64, device=u.device)
    squares = torch.zeros(3, dtype=torch.float64, device=u.device)
    for start in range(0, u.numel(), PIECE):
        piece = slice(start, start + PIECE)
        vectors = [u[piece].double(), v[piece].double()]
        if w is not None:
            vectors.append(vectors[0] - w[piece].double())
        total += torch.stack([(vectors[i] * vectors[j]).sum() for i, j in pairs])
        squares[: len(vectors)] += torch.stack([vector.square().sum() for vector in vectors])
    first, second = (list(side) for side in zip(*pairs, strict=True))
    return total, squares.sqrt()[first] * squares.sqrt()[second]


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
