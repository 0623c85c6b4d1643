"""How much distances between two sets of features vary from sample to sample: the first term of their expansion.

Every sample has an influence on the distance; the variance of the mean influence of either side, added up, is the
distance's. What is left out falls faster with n, and so does the distances' bias, which is none of an interval's.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 1024  # of a kernel's matrix at a time


def frechet_variance(real_ND: Tensor, generated_MD: Tensor) -> Tensor:
    """Of `metrics.frechet_distance`, by the delta method (Rippl, Munk and Sturm 2016, theorem 2.1).

    The influence of a sample y of one side is 2 (μ' - μ)·(y - μ') + (y - μ')ᵀ (1 - T) (y - μ') less its mean, where T,
    symmetric, carries this side's Gaussian, with mean μ', to the other's.
    """
    real, generated = real_ND.double(), generated_MD.double()
    return _frechet_side(real, generated) + _frechet_side(generated, real)


def _frechet_side(ours_ND: Tensor, theirs_MD: Tensor) -> Tensor:
    """The part that is for want of samples of `ours`."""
    centred, apart = ours_ND - ours_ND.mean(0), ours_ND.mean(0) - theirs_MD.mean(0)
    root, inverse = _roots(ours_ND.T.cov())
    middle, _ = _roots(root @ theirs_MD.T.cov() @ root)
    carries = inverse @ middle @ inverse
    influence_N = 2 * centred @ apart + (centred * (centred - centred @ carries)).sum(1)
    return influence_N.var() / len(influence_N)


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The root of a symmetric matrix without negative eigenvalues, and that root's inverse where it has one."""
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp(min=0).sqrt()
    is_there = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    inverses = torch.where(is_there, 1 / roots.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
    return (vectors * roots) @ vectors.T, (vectors * inverses) @ vectors.T


def kernel_variance(real_ND: Tensor, generated_MD: Tensor) -> Tensor:
    """Of the unbiased MMD² with the kernel (x·y / D + 1)³, a U-statistic (Hoeffding 1948); each side needs 2 samples.

    The influence of a sample is twice what its mean kernel with its own side exceeds that with the other.
    """
    real, generated = real_ND.double(), generated_MD.double()
    return _kernel_side(real, generated) + _kernel_side(generated, real)


def _kernel_side(ours_ND: Tensor, theirs_MD: Tensor) -> Tensor:
    n = len(ours_ND)
    influences = []
    for rows_ND in ours_ND.split(_ROWS):
        own = _kernel(rows_ND, ours_ND).sum(1) - _kernel_of_itself(rows_ND)
        influences.append(2 * (own / (n - 1) - _kernel(rows_ND, theirs_MD).mean(1)))
    return torch.cat(influences).var() / n


def _kernel(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    return (a_ND @ b_MD.T / a_ND.shape[1] + 1) ** 3


def _kernel_of_itself(a_ND: Tensor) -> Tensor:
    return (a_ND.square().sum(1) / a_ND.shape[1] + 1) ** 3
