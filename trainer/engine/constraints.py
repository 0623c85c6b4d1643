"""The multipliers of two linear constraints on a step, on the device."""

from __future__ import annotations

import torch
from torch import Tensor


def two_multipliers(gram: tuple[Tensor, Tensor, Tensor], missing: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """λ, μ >= 0 of the smallest λf + μp with ⟨f, λf + μp⟩ >= missing[0] and ⟨p, λf + μp⟩ >= missing[1].

    gram: ⟨f,f⟩, ⟨f,p⟩, ⟨p,p⟩; all 0-dim fp64. The solution is unique, so that of the sets of constraints that may be
    active any that meets the conditions of Karush, Kuhn and Tucker is it. Where none does, since f and p point against
    each other, μ alone is given.
    """
    ff, fp, pp = gram
    missing_f, missing_p = missing
    zero = torch.zeros_like(ff)
    lambda_alone, mu_alone = _ratio(missing_f, ff).clamp(min=0), _ratio(missing_p, pp).clamp(min=0)
    # nearly parallel vectors: one constraint decides
    determinant = ff * pp - fp.square()
    is_regular = determinant > 1e-10 * ff * pp
    lambda_both = _ratio(missing_f * pp - missing_p * fp, determinant)
    mu_both = _ratio(missing_p * ff - missing_f * fp, determinant)

    found_lambda, found_mu = zero, mu_alone
    for holds, with_lambda, with_mu in (
        (is_regular & (lambda_both >= 0) & (mu_both >= 0), lambda_both, mu_both),
        (_reaches(lambda_alone * fp, missing_p), lambda_alone, zero),
        (_reaches(mu_alone * fp, missing_f), zero, mu_alone),
    ):
        found_lambda = torch.where(holds, with_lambda, found_lambda)
        found_mu = torch.where(holds, with_mu, found_mu)
    return found_lambda, found_mu


def _reaches(value: Tensor, wanted: Tensor) -> Tensor:
    """But for rounding."""
    return value >= wanted - 1e-12 * (value.abs() + wanted.abs())


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))
