"""`combine_` and `displace` against numpy in float64."""

import math

import pytest
import torch
from erasediff.kernels.combine import combine_
from erasediff.kernels.displace import displace

DTYPES = [torch.float32, torch.bfloat16]
# half a unit in the last place, and what fp32 arithmetic before the rounding adds
ROUNDING = {dtype: torch.finfo(dtype).eps / 2 + 2**-22 for dtype in DTYPES}


def shard(n: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("dtype_f", DTYPES)
@pytest.mark.parametrize("dtype_r", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 3, 70_001])
def test_combine(n, dtype_r, dtype_f, first_order):
    r, f, phi = shard(n, dtype_r, 0), shard(n, dtype_f, 1), shard(n, dtype_f, 2) if first_order else None
    lambda_t = torch.tensor(0.7, dtype=torch.float64)
    d = f.double() if phi is None else f.double() - phi.double()
    expected = r.double() + 0.7 * d
    magnitude = r.double().abs() + 0.7 * (f.double().abs() + (0 if phi is None else phi.double().abs()))
    delta = combine_(r, lambda_t, f, phi)
    assert delta is r
    assert ((r.double() - expected).abs() <= ROUNDING[dtype_r] * magnitude).all()


def test_combine_with_a_multiplier_beyond_fp32():
    r, f = torch.tensor([1.0, -2.0]), torch.tensor([1e-30, 3e-32])
    combine_(r, torch.tensor(1e40, dtype=torch.float64), f)
    torch.testing.assert_close(r, torch.tensor([1e10, 3e8 - 2.0]))


def test_combine_does_not_hide_nan():
    r = torch.ones(2)
    combine_(r, torch.tensor(0.0, dtype=torch.float64), torch.tensor([math.nan, 1.0]))
    assert r[0].isnan()
    assert r[1] == 1


@pytest.mark.parametrize("dtype_v", DTYPES)
@pytest.mark.parametrize("dtype_theta", DTYPES)
@pytest.mark.parametrize("dtype_out", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 3, 70_001])
def test_displace(n, dtype_out, dtype_theta, dtype_v):
    theta, v = shard(n, dtype_theta, 0), shard(n, dtype_v, 1)
    kept = theta.clone()
    out = torch.full((n,), math.nan, dtype=dtype_out)
    assert displace(out, theta, v, -0.3) is out
    expected = theta.double() - 0.3 * v.double()
    magnitude = theta.double().abs() + 0.3 * v.double().abs()
    assert ((out.double() - expected).abs() <= ROUNDING[dtype_out] * magnitude).all()
    assert torch.equal(theta, kept)

    out.fill_(math.nan)
    displace(out, theta, None, -0.3)
    assert torch.equal(out, theta.to(dtype_out))


def test_shards_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="g_f: 3 elements"):
        combine_(torch.ones(4), torch.tensor(1.0), torch.ones(3))
    with pytest.raises(ValueError, match="lambda_t"):
        combine_(torch.ones(4), torch.ones(4), torch.ones(4))
    with pytest.raises(ValueError, match="theta: 3 elements"):
        displace(torch.ones(4), torch.ones(3), None, 1.0)
