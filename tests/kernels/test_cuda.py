"""What only a GPU can show."""

import pytest
import torch
from erasediff.kernels.combine import combine_
from erasediff.kernels.displace import displace
from erasediff.kernels.inner_products import first_non_finite, inner_products_by_parameter
from erasediff.kernels.multiplier import multiplier
from erasediff.kernels.table import ParameterTable


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_does_not_wait_for_the_device():
    g_f, g_r, g_phi, theta = (torch.randn(100_003, device="cuda") for _ in range(4))
    working = torch.empty(100_003, dtype=torch.bfloat16, device="cuda")
    g = torch.ones((), dtype=torch.float64, device="cuda")
    table = ParameterTable.from_rows([(0, 0, 70_000), (1, 70_000, 30_003)], 2)

    def step() -> None:
        sums, by_parameter = inner_products_by_parameter(g_f, g_r, g_phi, table=table)
        first_non_finite(by_parameter)
        m = multiplier(sums, eta=0.1, barrier="value", g=g)
        combine_(g_r, m.lambda_t, g_f, g_phi)
        displace(working, theta, g_f, -0.1)

    # compiles, and brings the table's chunks to the device
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_combine_on_a_partition_of_more_than_2_31_elements():
    whole = torch.zeros(2**31 + 4_096, dtype=torch.bfloat16, device="cuda")
    start = 2**31 + 5
    whole[start : start + 3_000] = 1.0
    combine_(whole, torch.tensor(2.0, device="cuda"), whole)
    assert (whole[start : start + 3_000] == 3.0).all()
    assert (whole[start + 3_000 :] == 0.0).all()
    assert (whole[start - 4_096 : start] == 0.0).all()
