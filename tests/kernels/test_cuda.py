"""What only a GPU can show."""

import pytest
import torch
from erasediff.kernels.combine import combine_
from erasediff.kernels.displace import displace
from erasediff.kernels.inner_products import first_non_finite, inner_products, inner_products_by_parameter
from erasediff.kernels.multiplier import multiplier
from erasediff.kernels.table import ParameterTable


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_does_not_wait_for_the_device():
    g_f, g_r, g_phi, theta = (torch.randn(100_003, device="cuda") for _ in range(4))
    working = torch.empty(100_003, dtype=torch.bfloat16, device="cuda")
    packet = torch.empty(13, dtype=torch.float64, device="cuda")
    table = ParameterTable.from_rows([(0, 0, 70_000), (1, 70_000, 30_003)], 2)
    group_of = torch.tensor([0, 0], device="cuda")

    def step() -> None:
        sums = inner_products(g_f, g_r, g_phi, out=packet[:6])
        m = multiplier(sums, eta=0.1, barrier="value", g=packet[12], out=packet[6:12])
        _, by_parameter = inner_products_by_parameter(g_f, g_r, g_phi, table=table)
        first_non_finite(by_parameter)
        combine_(g_r, m.lambda_t, g_f, g_phi)
        combine_(g_r, m.lambda_t[None], g_f, g_phi, table=table, group_of=group_of)
        displace(working, theta, g_f, -0.1)

    packet[12] = 1.0
    # compiles, and brings the table's chunks to the device
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
