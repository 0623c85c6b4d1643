"""`combine_` and `displace` against float64."""

import math

import gradient_reference as reference
import pytest
import torch
from erasediff.kernels.combine import combine_
from erasediff.kernels.displace import displace
from erasediff.kernels.tiles import CPU_CHUNK, ELEMENTWISE_TILE
from hypothesis import given, settings
from hypothesis import strategies as st

DTYPES = [torch.float32, torch.bfloat16]
LENGTHS = [0, 1, 3, ELEMENTWISE_TILE, 2 * ELEMENTWISE_TILE + 1_001, CPU_CHUNK + 5]


def scalar(value: float, device: torch.device) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, device=device)


def combined(r, lambda_t, f, phi):
    """δ and the sum of its terms' absolute values, float64."""
    d = f.double() if phi is None else f.double() - phi.double()
    f_magnitude = f.double().abs() + (0.0 if phi is None else phi.double().abs())
    return r.double() + lambda_t * d, r.double().abs() + abs(lambda_t) * f_magnitude


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("dtype_f", DTYPES)
@pytest.mark.parametrize("dtype_r", DTYPES)
@pytest.mark.parametrize("n", LENGTHS)
def test_combine(form, n, dtype_r, dtype_f, first_order):
    r, f, phi = form.randn(n, dtype_r, 0), form.randn(n, dtype_f, 1), form.randn(n, dtype_f, 2)
    phi = phi if first_order else None
    expected, magnitude = combined(r, 0.7, f, phi)
    assert form.combine_(r, scalar(0.7, form.device), f, phi) is r
    assert reference.elementwise_error(r, expected, magnitude) <= 1


@settings(deadline=None)
@given(st.data())
def test_combine_any_numbers(form, data):
    n = data.draw(st.integers(1, 20))
    numbers = st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=n, max_size=n)
    r, f, phi = (torch.tensor(data.draw(numbers), device=form.device) for _ in range(3))
    lambda_t = data.draw(st.floats(0, 1e6))
    expected, magnitude = combined(r, lambda_t, f, phi)
    form.combine_(r, scalar(lambda_t, form.device), f, phi)
    assert reference.elementwise_error(r, expected, magnitude) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1, 3])
def test_misaligned_starts(form, dtype, offset):
    n = ELEMENTWISE_TILE + 9
    r, f = (form.randn(n + offset, dtype, seed)[offset:] for seed in range(2))
    expected, magnitude = combined(r, 0.7, f, None)
    before = form.randn(n + offset, dtype, 0)[:offset]
    form.combine_(r, scalar(0.7, form.device), f, None)
    assert reference.elementwise_error(r, expected, magnitude) <= 1

    out = torch.full((n + offset + 1,), 7.0, dtype=dtype, device=form.device)
    form.displace(out[offset : offset + n], f, r, -0.5)
    expected, magnitude = combined(f, -0.5, r, None)
    assert reference.elementwise_error(out[offset : offset + n], expected, magnitude) <= 1
    # nothing beside the partition is written
    assert (out[:offset] == 7).all()
    assert out[-1] == 7
    assert torch.equal(r._base[:offset], before)  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size_f", "lambda_t"), [(1e-30, 1e40), (1e-38, 3e70), (1e11, 1e-42), (1e38, 1e-70)])
def test_combine_with_a_multiplier_that_leaves_fp32(form, dtype, size_f, lambda_t):
    r = form.randn(100, dtype, 0) * (size_f * lambda_t)
    f = form.randn(100, dtype, 1) * size_f
    expected, magnitude = combined(r, lambda_t, f, None)
    form.combine_(r, scalar(lambda_t, form.device), f, None)
    assert reference.elementwise_error(r, expected, magnitude) <= 1


def test_combine_does_not_hide_nan(form):
    r = torch.ones(2, device=form.device)
    form.combine_(r, scalar(0.0, form.device), torch.tensor([math.nan, 1.0], device=form.device), None)
    assert r[0].isnan()
    assert r[1] == 1


@pytest.mark.parametrize("dtype_v", DTYPES)
@pytest.mark.parametrize("dtype_theta", DTYPES)
@pytest.mark.parametrize("dtype_out", DTYPES)
@pytest.mark.parametrize("n", LENGTHS)
def test_displace(form, n, dtype_out, dtype_theta, dtype_v):
    theta, v = form.randn(n, dtype_theta, 0), form.randn(n, dtype_v, 1)
    kept = theta.clone()
    out = torch.full((n,), math.nan, dtype=dtype_out, device=form.device)
    assert form.displace(out, theta, v, -0.3) is out
    expected, magnitude = combined(theta, -0.3, v, None)
    assert reference.elementwise_error(out, expected, magnitude) <= 1
    assert torch.equal(theta, kept)

    out.fill_(math.nan)
    form.displace(out, theta, None, -0.3)
    assert torch.equal(out, theta.to(dtype_out))


def test_partitions_that_do_not_fit_are_refused():
    ones = torch.ones(4)
    with pytest.raises(ValueError, match="g_f: 3 elements"):
        combine_(ones, torch.tensor(1.0), torch.ones(3))
    with pytest.raises(ValueError, match=r"lambda_t: .* 0-dim .* found torch.float32 \[4\]"):
        combine_(ones, ones, ones)
    with pytest.raises(ValueError, match=r"lambda_t: .* torch.int64"):
        combine_(ones, torch.tensor(1), ones)
    with pytest.raises(ValueError, match="theta: 3 elements"):
        displace(ones, torch.ones(3), None, 1.0)
