"""The smallest combination of two vectors that holds two constraints, beside a solver's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from erasediff.trainer.engine import two_multipliers
from scipy.optimize import nnls


def solved(f: np.ndarray, p: np.ndarray, missing: np.ndarray) -> tuple[float, float]:
    gram = (torch.tensor(f @ f), torch.tensor(f @ p), torch.tensor(p @ p))
    found = two_multipliers(gram, (torch.tensor(missing[0]), torch.tensor(missing[1])))
    return float(found[0]), float(found[1])


@pytest.mark.parametrize("seed", range(60))
def test_it_is_the_solution_of_the_quadratic_programme(seed: int) -> None:
    """The dual, min ½‖Aᵀλ‖² - ⟨s, λ⟩ over λ >= 0, as a non-negative least squares problem."""
    generator = np.random.default_rng(seed)
    f = generator.standard_normal(5)
    # from nearly parallel to nearly opposite
    p = generator.uniform(-1, 1) * f + 10.0 ** generator.uniform(-2, 1) * generator.standard_normal(5)
    missing = generator.standard_normal(2) * 10.0 ** generator.uniform(-2, 2)
    rows = np.stack([f, p])
    found = np.array(solved(f, p, missing))
    # AAᵀ = LLᵀ: ½‖Lᵀλ‖² - ⟨s, λ⟩ is ½‖Lᵀλ - L⁻¹s‖² but for a constant
    lower = np.linalg.cholesky(rows @ rows.T)
    expected, _ = nnls(lower.T, np.linalg.solve(lower, missing))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_all_sets_of_active_constraints_occur() -> None:
    f, p = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    assert solved(f, p, np.array([-1.0, -1.0])) == (0, 0)
    assert solved(f, p, np.array([2.0, 1.0])) == (2, 0)
    assert solved(f, p, np.array([0.5, 2.0])) == (0, 1)
    assert solved(f, p, np.array([2.0, 3.0])) == pytest.approx((1, 1))


def test_parallel_opposite_and_missing_vectors() -> None:
    f = np.array([1.0, 2.0])
    # λ and μ that say the same: the constraint that asks for more decides
    found = solved(f, 2 * f, np.array([5.0, 30.0]))
    assert found[0] * 5 + found[1] * 10 == pytest.approx(15)
    # nothing holds both: the second alone
    assert solved(f, -f, np.array([5.0, 10.0])) == (0, 2)
    assert solved(f, 0 * f, np.array([5.0, 0.0])) == (1, 0)
    assert solved(0 * f, f, np.array([0.0, 5.0])) == (0, 1)
