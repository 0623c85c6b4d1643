"""Every gradient kernel once, as the engine starts it: what Triton compiles for that stays in its cache.

    TRITON_CACHE_DIR=DIR python -m erasediff.kernels.exercise

fills DIR with that and with Triton's driver, on a machine with a GPU and a C compiler.
"""

import ctypes
import sys

import torch

from .combine import combine_
from .displace import displace
from .inner_products import inner_products_by_parameter
from .multiplier import multiplier
from .start import KernelError, start
from .table import ParameterTable


def exercise(device: torch.device) -> None:
    """Runs them on small shards, of lengths that are and are not a multiple of 16, as Triton tells them apart."""
    for numel in (4096, 4093):
        table = ParameterTable.from_rows([(0, 0, numel)], 1)
        u, v, w = torch.randn(3, numel, device=device).unbind()
        u, v, w = u.clone(), v.clone(), w.clone()  # each at an address of its own
        g = torch.ones((), device=device)
        for third in (None, w):
            sums, _ = inner_products_by_parameter(u, v, third, table=table)
            multiplier(sums, eta=0.5, barrier="norm")
            value = multiplier(sums, eta=0.5, barrier="value", g=g)
            combine_(v.clone(), value.lambda_t, u, third)
        for dtype in (torch.float32, torch.bfloat16):
            displace(torch.empty(numel, dtype=dtype, device=device), u, v, 0.5)
            displace(torch.empty(numel, dtype=dtype, device=device), u, None, 0.0)


def main() -> int:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        print("there is no GPU driver here (libcuda.so.1)")
        return 1
    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no GPU here")
        return 1
    try:
        start(lambda: exercise(torch.device("cuda")))
    except KernelError as error:
        print(error)
        return 1
    print(f"for {torch.cuda.get_device_name()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
