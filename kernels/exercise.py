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
    """Runs them on small shards of the types that a run has, at its alignments: Triton compiles for each of both.

    Nothing random: what a run draws after it is what it would draw without.
    """
    numel = 4096
    table = ParameterTable.from_rows([(0, 0, numel)], 1)
    u, v, w = (torch.full((numel,), value, device=device) for value in (1.0, 2.0, 3.0))
    g = torch.ones((), dtype=torch.float64, device=device)
    for third in (None, w):
        sums, _ = inner_products_by_parameter(u, v, third, table=table)
        # in a packet they come behind two losses or behind three, which are no multiple of 16 bytes
        for placed in (sums, torch.cat((sums.new_zeros(3), sums))[3:]):
            multiplier(placed, eta=0.5, barrier="norm")
            theorem = multiplier(placed, eta=0.5, barrier="value", g=g)
        combine_(v.clone(), theorem.lambda_t, u, third)
    for dtype in (torch.float32, torch.bfloat16):
        weights = torch.empty(numel + 2, dtype=dtype, device=device)
        for out in (weights[:numel], weights[2:]):  # at a multiple of 16 bytes, and off it
            displace(out, u, v, 0.5)
            displace(out, u, None, 0.0)


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
