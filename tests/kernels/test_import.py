"""Importing the kernels, and using them on the CPU, takes no GPU, no compiler and no Triton."""

import os
import subprocess
import sys

SCRIPT = """
import sys
sys.modules["triton"] = None
import torch
from erasediff.kernels.combine import combine_
from erasediff.kernels.displace import displace
from erasediff.kernels.inner_products import inner_products_by_parameter
from erasediff.kernels.multiplier import multiplier
from erasediff.kernels.table import ParameterTable
u = torch.ones(5)
sums, _ = inner_products_by_parameter(u, u, table=ParameterTable.from_rows([(0, 0, 5)], 1))
m = multiplier(sums, eta=2.0, barrier="norm")
print(displace(torch.empty(5), combine_(u, m.lambda_t, u), u, 1.0).tolist())
"""


def test_the_cpu_forms_need_no_triton():
    environment = {"PATH": "", "CUDA_VISIBLE_DEVICES": "", "HOME": os.environ.get("HOME", "")}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # λ = 2 − 5/5 = 1, δ = 2 written over u, then 2 + 2
    assert done.stdout.strip() == str([4.0] * 5)
