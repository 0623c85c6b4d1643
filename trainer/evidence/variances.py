"""What each generated sample does to a distance to the real images: the first term of the distance's expansion.

The distance varies as the sum of the influences. The real images are what they are, the same for every model: their own
scatter moves all distances alike, and would only hide how models differ. What is left out falls faster with n, and so
does the distances' bias, which is none of an interval's.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 1024  # of a kernel's matrix at a time


def frechet_influences(real_ND: Tensor, generated_MD: Tensor) -> Tensor:
    """On `metrics.frechet_distance` [M], by the delta method (Rippl, Munk and Sturm 2016, theorem 2.1).

    Of a generated sample y it is 2 (μ' - μ)·(y - μ') + (y - μ')ᵀ (1 - T) (y - μ') less its mean, over M, where T,
    symmetric, carries the Gaussian of the generated, with mean μ', to that of the real ones.
    """
    real, generated = real_ND.double(), generated_MD.double()
    centred, apart = generated - generated.mean(0), generated.mean(0) - real.mean(0)
    root, inverse = _roots(generated.T.cov())
    middle, _ = _roots(root @ real.T.cov() @ root)
    carries = inverse @ middle @ inverse
    influence_M = 2 * centred @ apart + (centred * (centred - centred @ carries)).sum(1)
    return _centred(influence_M)


def variance_of(influences_M: Tensor) -> Tensor:
    """Of what they are the influences on; it needs 2 samples."""
    return influences_M.var() * len(influences_M)


def _centred(contributions_M: Tensor) -> Tensor:
    return (contributions_M - contributions_M.mean()) / len(contributions_M)


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The root of a symmetric matrix without negative eigenvalues, and that root's inverse where it has one."""
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp(min=0).sqrt()
    is_there = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    inverses = torch.where(is_there, 1 / roots.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
    return (vectors * roots) @ vectors.T, (vectors * inverses) @ vectors.T


def kernel_influences(real_ND: Tensor, generated_MD: Tensor) -> Tensor:
    """On the unbiased MMD² with the kernel (x·y / D + 1)³ [M], a U-statistic (Hoeffding 1948); it needs 2 samples.

    Of a sample it is twice what its mean kernel with the other generated ones exceeds that with the real, over M.
    """
    real, generated = real_ND.double(), generated_MD.double()
    m, influences = len(generated), []
    for rows_MD in generated.split(_ROWS):
        own = _kernel(rows_MD, generated).sum(1) - _kernel_of_itself(rows_MD)
        influences.append(2 * (own / (m - 1) - _kernel(rows_MD, real).mean(1)))
    return _centred(torch.cat(influences))


def _kernel(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    return (a_ND @ b_MD.T / a_ND.shape[1] + 1) ** 3


def _kernel_of_itself(a_ND: Tensor) -> Tensor:
    return (a_ND.square().sum(1) / a_ND.shape[1] + 1) ** 3
