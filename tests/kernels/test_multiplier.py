"""λ_t and δ against the KKT conditions of eq. (6): min ½‖δ − ∇L_r‖² subject to ⟨∇g, δ⟩ ≥ a_t."""

import math

import numpy as np
import pytest
import torch
from erasediff.kernels.multiplier import Multiplier, multiplier
from hypothesis import given, settings
from hypothesis import strategies as st


def sums_of(form, *values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, device=form.device)


def numbers(m: Multiplier) -> dict[str, float]:
    return {name: float(value) for name, value in m._asdict().items()}


@st.composite
def problems(draw):
    """Two or three gradients of any fp32 scale, at any angle, and a barrier."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 300))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    u = rng.standard_normal(n)
    r = draw(st.sampled_from([-1.0, -0.3, 0.0, 0.3, 1.0])) * u + draw(st.sampled_from([0.0, 1e-3, 1.0])) * (
        rng.standard_normal(n)
    )
    scale_u, scale_r = (10.0 ** draw(st.integers(-30, 18)) for _ in range(2))
    u, r = torch.from_numpy(u * scale_u).to(dtype), torch.from_numpy(r * scale_r).to(dtype)
    w = None
    if draw(st.booleans()):
        w = torch.from_numpy(rng.standard_normal(n) * scale_u * draw(st.sampled_from([1e-2, 1.0]))).to(dtype)
    barrier = draw(st.sampled_from(["norm", "value"]))
    # with "value", a_t on the scale where the constraint can bind
    g = draw(st.sampled_from([-1.0, 0.0, 1e-3, 1.0, 1e3])) * min(scale_u * scale_r, 1e18)
    return u, r, w, draw(st.sampled_from([0.0, 1e-4, 0.1, 1.0])), barrier, g


@settings(deadline=None, max_examples=150)
@given(problems())
def test_delta_satisfies_kkt(form, problem):
    u, r, w, eta, barrier, g = problem
    u, r, w = (None if x is None else x.to(form.device) for x in (u, r, w))
    check_kkt(form, u, r, w, eta, barrier, torch.tensor(g, device=form.device))


def check_kkt(form, u, r, w, eta, barrier, g):
    d64 = (u.float() if w is None else u.float() - w.float()).double()
    r64 = r.double()
    m = form.multiplier(form.sums(u, r, w), eta=eta, barrier=barrier, g=g if barrier == "value" else None)
    assert m.finite == 1
    # δ in fp32: rounding it to bf16 is the caller's choice and has its own error
    delta64 = form.combine_(r.float(), m.lambda_t, u, w).double()

    gg, a_t = d64.dot(d64), m.a_t
    assert math.isclose(a_t, eta * (gg if barrier == "norm" else max(float(g), 0.0)), rel_tol=1e-6)
    if gg == 0:
        assert m.lambda_t == 0
        assert m.infeasible == float(a_t > 0)
        return
    rounding = 1e-6 * gg.sqrt() * (r64.norm() + m.lambda_t * gg.sqrt())
    # primal feasibility, dual feasibility, complementary slackness, stationarity
    slack = d64.dot(delta64) - a_t
    assert slack >= -rounding
    assert m.lambda_t >= 0
    assert m.lambda_t == 0 or abs(slack) <= rounding
    applied = delta64 - r64 - m.lambda_t * d64
    assert applied.norm() <= 1e-6 * (r64.norm() + m.lambda_t * gg.sqrt())
    assert m.capped == m.infeasible == m.shortfall == 0


def test_multiplier_equals_a_hand_computed_case(form):
    # ∇g = (2, 0), ∇L_r = (−1, 3): ⟨∇g,∇L_r⟩ = −2; norm: a = 0.5·4, λ = (2 + 2)/4; value: a = 0.5·6, λ = (3 + 2)/4
    sums = sums_of(form, 4, -2, 10)
    assert numbers(form.multiplier(sums, eta=0.5, barrier="norm")) == {
        "lambda_t": 1.0, "a_t": 2.0, "capped": 0.0, "infeasible": 0.0, "finite": 1.0, "shortfall": 0.0,
    }  # fmt: skip
    value = form.multiplier(sums, eta=0.5, barrier="value", g=torch.tensor(6.0, device=form.device))
    assert (value.lambda_t, value.a_t) == (1.25, 3.0)
    negative = form.multiplier(sums, eta=0.5, barrier="value", g=torch.tensor(-6.0, device=form.device))
    assert (negative.lambda_t, negative.a_t) == (0.5, 0.0)


def test_cap_is_marked_and_its_shortfall_told(form):
    m = form.multiplier(sums_of(form, 4, -2, 10), eta=0.5, barrier="norm", lambda_cap=0.25)
    # ⟨∇g, δ⟩ = −2 + 0.25·4 = −1 against a_t = 2
    assert (m.lambda_t, m.capped, m.shortfall) == (0.25, 1, 3.0)
    # −0.5 + 0.25·1 = −0.25 against a_t = 0.5
    small = form.multiplier(sums_of(form, 1, -0.5, 10), eta=0.5, barrier="norm", lambda_cap=0.25)
    assert (small.lambda_t, small.capped, small.shortfall) == (0.25, 1, 0.75)
    below = form.multiplier(sums_of(form, 4, -2, 10), eta=0.5, barrier="norm", lambda_cap=1.0)
    assert (below.lambda_t, below.capped, below.shortfall) == (1.0, 0, 0)


def test_zero_gradient_of_g(form):
    norm = form.multiplier(sums_of(form, 0, 0, 10), eta=0.5, barrier="norm")
    assert (norm.lambda_t, norm.a_t, norm.infeasible, norm.finite) == (0, 0, 0, 1)
    value = form.multiplier(sums_of(form, 0, 0, 10), eta=0.5, barrier="value", g=torch.tensor(6.0, device=form.device))
    assert (value.lambda_t, value.infeasible, value.shortfall, value.finite) == (0, 1, 3.0, 1)
    small = form.multiplier(sums_of(form, 0, 0, 10), eta=0.5, barrier="value", g=torch.tensor(0.5, device=form.device))
    assert (small.lambda_t, small.infeasible, small.shortfall) == (0, 1, 0.25)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_sum_or_g_gives_zeros(form, bad):
    zeros = dict.fromkeys(Multiplier._fields, 0.0)
    for position in range(6):
        values = [4.0, -2.0, 10.0, 1.0, 1.0, 1.0]
        values[position] = bad
        assert numbers(form.multiplier(sums_of(form, *values), eta=0.5, barrier="norm")) == zeros
    for barrier in ("norm", "value"):
        assert (
            numbers(
                form.multiplier(
                    sums_of(form, 4, -2, 10), eta=0.5, barrier=barrier, g=torch.tensor(bad, device=form.device)
                )
            )
            == zeros
        )


def test_an_update_that_would_overflow_is_not_finite(form):
    tiny = torch.tensor([1e-40], device=form.device)
    m = form.multiplier(form.sums(tiny, tiny), eta=1.0, barrier="value", g=torch.tensor(1.0, device=form.device))
    assert (m.finite, m.lambda_t) == (0, 0)


def test_result_lies_in_one_tensor():
    m = multiplier(torch.tensor([4.0, -2.0, 10.0], dtype=torch.float64), eta=0.5, barrier="norm")
    assert [float(value) for value in m] == [1.0, 2.0, 0.0, 0.0, 1.0, 0.0]
    assert [value.data_ptr() for value in m] == [m.lambda_t.data_ptr() + 8 * i for i in range(6)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"barrier": "cosine"}, "barrier"),
        ({"barrier": "value"}, "g: "),
        ({"eta": -1.0}, "eta"),
        ({"eta": math.nan}, "eta"),
        ({"lambda_cap": -1.0}, "lambda_cap"),
        ({"lambda_cap": math.nan}, "lambda_cap"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        multiplier(torch.ones(3, dtype=torch.float64), **{"eta": 0.1, "barrier": "norm"} | options)


def test_sums_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"sums: .* \[3\] or \[6\], found torch.float32 \[3\]"):
        multiplier(torch.ones(3), eta=0.1, barrier="norm")


def test_a_cap_of_zero_is_plain_training():
    sums = torch.tensor([4.0, -2.0, 1.0], dtype=torch.float64)
    m = multiplier(sums, eta=1.0, barrier="norm", lambda_cap=0.0)
    assert (float(m.lambda_t), float(m.capped)) == (0.0, 1.0)
