"""Each test of an op runs on its forms: plain torch, and Triton (on a GPU where there is one, else interpreted)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from erasediff.kernels import combine, displace, inner_products, multiplier
from erasediff.kernels.table import ParameterTable
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """One implementation of every op, and the device it takes."""

    name: str
    device: torch.device

    @property
    def is_triton(self) -> bool:
        return self.name == "triton"

    def sums(self, u: Tensor, v: Tensor, w: Tensor | None = None, num_programs: int = 3) -> Tensor:
        """Of partitions of one parameter."""
        table = ParameterTable.from_rows([(0, 0, u.numel())], 1)
        return self.sums_by_parameter(u, v, w, table=table, num_programs=num_programs)[0]

    def sums_by_parameter(
        self, u: Tensor, v: Tensor, w: Tensor | None = None, *, table: ParameterTable, num_programs: int = 3
    ) -> tuple[Tensor, Tensor]:
        if self.is_triton:
            from erasediff.kernels.inner_products_triton import inner_products_by_parameter_triton

            return inner_products_by_parameter_triton(u, v, w, table=table, num_programs=num_programs)
        return inner_products.inner_products_by_parameter_torch(u, v, w, table)

    def multiplier(
        self, sums: Tensor, *, eta: float, barrier: str, g: Tensor | None = None, lambda_cap: float = float("inf")
    ) -> multiplier.Multiplier:
        out = torch.full((6,), float("nan"), dtype=torch.float64, device=sums.device)
        if self.is_triton:
            from erasediff.kernels.multiplier_triton import multiplier_triton

            multiplier_triton(sums, eta, barrier == "value", g, lambda_cap, out)
        else:
            multiplier.multiplier_torch(sums, eta, barrier == "value", g, lambda_cap, out)
        return multiplier.Multiplier(*out.unbind())

    def combine_(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.is_triton:
            from erasediff.kernels.combine_triton import combine_triton_

            return combine_triton_(*args, **kwargs)
        return combine.combine_torch_(*args, **kwargs)

    def displace(self, out: Tensor, theta: Tensor, v: Tensor | None, alpha: float) -> Tensor:
        if self.is_triton:
            from erasediff.kernels.displace_triton import displace_triton

            return displace_triton(out, theta, v, alpha)
        return displace.displace_torch(out, theta, v, alpha)

    def randn(self, n: int, dtype: torch.dtype, seed: int) -> Tensor:
        return torch.randn(n, generator=torch.Generator().manual_seed(seed)).to(self.device, dtype)


@pytest.fixture(params=["torch", "triton"], scope="session")
def form(request: pytest.FixtureRequest) -> Form:
    device = torch.device("cuda" if request.param == "triton" and torch.cuda.is_available() else "cpu")
    if request.param == "triton" and device.type == "cpu":
        from triton.language import sum as triton_sum
        from triton.runtime.interpreter import InterpretedFunction

        assert isinstance(triton_sum, InterpretedFunction), "set TRITON_INTERPRET in tests/conftest.py, at its top"
    return Form(request.param, device)


@pytest.fixture(scope="session", autouse=True)
def hardware_rounding() -> Iterator[None]:
    """Cast as GPUs do: fp32 to bf16 to nearest even (`cvt.rn.bf16`), and bf16's denormals to fp32 exactly.

    Triton's interpreter cuts the low bits off, and takes small denormals for zero.
    """
    from triton.language import bfloat16, float32
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast = InterpreterBuilder.cast_impl

    def rounding_cast(builder: InterpreterBuilder, source: TensorHandle, target: Any) -> TensorHandle:
        types = (source.dtype.scalar, target.scalar)
        if types == (bfloat16, float32):
            exact = np.ascontiguousarray(source.data).view(np.uint16).astype(np.uint32) << 16
            return TensorHandle(exact.view(np.float32), float32)
        if types != (float32, bfloat16):
            return cast(builder, source, target)
        rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.int16)
        return TensorHandle(rounded.numpy().view(np.uint16), target.scalar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "cast_impl", rounding_cast)
        yield


@pytest.fixture(autouse=True)
def poisoned_outputs() -> Iterator[None]:
    """Memory that torch hands out uninitialised holds NaN, and torch raises where an op is not deterministic."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
