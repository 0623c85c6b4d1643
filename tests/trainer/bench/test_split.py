"""Each instant of an iteration belongs to one part."""

from __future__ import annotations

import torch
from erasediff.trainer.bench.split import (
    NUM_PROFILED,
    PARTS,
    Split,
    _part_of_call,
    _part_of_kernel,
    _share_out,
    take_apart,
)
from erasediff.trainer.config import EngineConfig
from erasediff.trainer.ranks import collectives


def test_an_instant_belongs_to_the_first_part_that_is_under_way() -> None:
    nothing: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
    intervals = nothing | {
        "passes": [(1.0, 4.0), (3.0, 5.0), (9.0, 12.0)],
        "kernels": [(4.0, 4.5)],
        "optimizer": [(4.25, 4.75)],
        "reduction": [(0.5, 2.0), (4.0, 6.0)],
        "data": [(5.5, 7.0)],
    }
    assert _share_out((0.0, 10.0), intervals) == {
        "kernels": 0.5,
        "optimizer": 0.25,
        "passes": 4.0 + 1.0 - 0.75,
        "reduction": 0.5 + 1.0,
        "data": 1.0,
        "gaps": 10.0 - 5.0 - 1.5 - 1.0,
    }


def test_kernels_and_calls_are_told_apart_by_their_names() -> None:
    kernels = {
        "ncclDevKernel_ReduceScatter_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)": "reduction",
        "nccl:_reduce_scatter_base": None,
        "_displace": "kernels",
        "_chunk_sums": "kernels",
        "void at::native::multi_tensor_apply_kernel<…, at::native::FusedAdamMathFunctor<float, 4>>": "optimizer",
        "void at::native::multi_tensor_apply_kernel<…, at::native::CopyFunctor<float, float, 2>>": "passes",
        "Memcpy HtoD (Pinned -> Device)": "data",
        "Memcpy DtoD (Device -> Device)": "passes",
        "sm90_xmma_fprop_implicit_gemm_bf16": "passes",
        "erasediff::displace": None,
        "Optimizer.step#AdamW.step": None,
    }
    assert {name: _part_of_kernel(name) for name in kernels} == kernels
    calls = {
        "erasediff::displace": "kernels",
        "Optimizer.step#AdamW.step": "optimizer",
        "aten::convolution": "passes",
        "autograd::engine::evaluate_function: MulBackward0": None,
    }
    assert {name: _part_of_call(name) for name in calls} == calls


def test_the_parts_of_a_profile_add_up_to_it() -> None:
    """A step of known parts: products, a named kernel, an optimizer, and idling."""
    device = collectives.set_up(EngineConfig(device="cpu"))
    a = torch.randn(300, 300)
    weights = torch.nn.Parameter(torch.randn(400_000))
    weights.grad = torch.randn(400_000)
    optimizer = torch.optim.AdamW([weights], fused=True)
    idle = torch.utils.data.get_worker_info  # a call that the profiler does not see

    def step() -> None:
        for _ in range(5):
            a.mm(a)
        with torch.profiler.record_function("erasediff::displace"):
            a.mul(2)
        optimizer.step()
        for _ in range(200_000):
            idle()

    split = take_apart(step, device)
    assert set(split.seconds) == set(PARTS)
    assert all(split.seconds[part] > 0 for part in ("passes", "kernels", "optimizer", "gaps"))
    assert split.seconds["reduction"] == split.seconds["data"] == 0
    assert split.seconds["gaps"] > split.seconds["kernels"]
    assert split.num_bytes == 0 and split.bus_bandwidth is None


def test_bandwidth_is_over_the_time_that_collectives_take() -> None:
    assert Split({}, reduction_busy_seconds=0.5, num_bytes=10).bus_bandwidth == 20.0
    assert NUM_PROFILED > 1
