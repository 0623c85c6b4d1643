"""Inner products against numpy in float64."""

import math

import numpy as np
import pytest
import torch
from erasediff.kernels.inner_products import first_non_finite, inner_products, inner_products_by_parameter
from erasediff.kernels.shard import ParameterTable


def reference(u, v, w=None) -> np.ndarray:
    u, v = u.double().numpy(), v.double().numpy()
    if w is None:
        return np.array([u @ u, u @ v, v @ v])
    d = u - w.double().numpy()
    return np.array([d @ d, d @ v, v @ v, u @ u, u @ v, u @ d])


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [0, 1, 3, 1_001, 200_003])
def test_sums_match_float64(n, dtype, first_order):
    generator = torch.Generator().manual_seed(n)
    u, v, w = (torch.randn(n, generator=generator).to(dtype) for _ in range(3))
    w = u + 1e-2 * w if first_order else None
    sums = inner_products(u, v, w)
    u64, v64 = u.double(), v.double()
    d64 = u64 if w is None else u64 - w.double()
    uu, vv, dd = (float(x.norm()) for x in (u64, v64, d64))
    scale = [dd * dd, dd * vv, vv * vv] + ([] if w is None else [uu * uu, uu * vv, uu * dd])
    assert sums.dtype == torch.float64
    np.testing.assert_array_less(np.abs(sums.numpy() - reference(u, v, w)), 1e-6 * np.array(scale) + 1e-300)


def test_rows_of_a_parameter_add_up():
    u, v = torch.randn(100), torch.randn(100)
    table = ParameterTable.from_rows([(2, 0, 30), (0, 30, 50), (2, 90, 5)], num_parameters=4)
    sums, by_parameter = inner_products_by_parameter(u, v, table=table)
    pieces = [reference(u[a : a + n], v[a : a + n]) for a, n in ((0, 30), (30, 50), (90, 5))]
    nothing = np.zeros(3)
    expected = np.stack([pieces[1], nothing, pieces[0] + pieces[2], nothing])
    np.testing.assert_allclose(by_parameter.numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sums.numpy(), sum(pieces), rtol=1e-5, atol=1e-5)


def test_first_non_finite():
    rows = torch.ones(5, 3, dtype=torch.float64)
    assert first_non_finite(rows) == -1
    rows[3, 1], rows[4, 0] = math.nan, math.inf
    assert first_non_finite(rows) == 3
    assert first_non_finite(rows[:0]) == -1


def test_result_goes_into_the_packet():
    packet = torch.full((5,), math.nan, dtype=torch.float64)
    inner_products(torch.ones(4), torch.ones(4), out=packet[1:4])
    assert packet[1:4].tolist() == [4.0, 4.0, 4.0]
    assert packet[[0, 4]].isnan().all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [([(0, 0, 5), (1, 4, 5)], "overlap"), ([(2, 0, 5)], "num_parameters"), ([(0, -1, 5)], ">= 0")],
)
def test_wrong_tables_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        ParameterTable.from_rows(rows, num_parameters=2)


def test_shards_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="v: 3 elements"):
        inner_products(torch.ones(4), torch.ones(3))
    with pytest.raises(ValueError, match="float64"):
        inner_products(torch.ones(4), torch.ones(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="flat"):
        inner_products(torch.ones(8)[::2], torch.ones(4))
    with pytest.raises(ValueError, match="reaches element 5"):
        table = ParameterTable.from_rows([(0, 0, 5)], 1)
        inner_products_by_parameter(torch.ones(4), torch.ones(4), table=table)
