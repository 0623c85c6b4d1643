"""The benchmark leaves out what would not fit, by estimates that hold."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernels.py"
LENGTHS = [6 << 20, 3, 2_000_000, 70_000, 1]


def load(name: str, script: Path) -> Any:
    """The module of a file whose folder stays off sys.path, or `import kernels` would find the benchmark."""
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load_benchmark() -> Any:
    load("rows", SCRIPT.with_name("rows.py"))
    load("pipelines", SCRIPT.with_name("pipelines.py"))
    return load("kernels_benchmark", SCRIPT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_provider_takes_more_than_its_estimate(dtype: torch.dtype) -> None:
    benchmark, cpu = load_benchmark(), torch.device("cpu")
    x = benchmark.Vectors(list(enumerate(LENGTHS)), len(LENGTHS), dtype, cpu)
    held = [x.g_f, x.g_r, x.g_phi, x.delta, x.theta, x.working]
    assert benchmark.Vectors.num_bytes(sum(LENGTHS), dtype) == sum(tensor.nbytes for tensor in held)
    sources = (benchmark.sums_ops, benchmark.combine_ops, benchmark.displace_ops, benchmark.optimizer_ops)
    for op in itertools.chain(*(source(x) for source in sources)):
        for provider, run in op.providers.items():
            megabytes = benchmark.extra_megabytes(lambda op=op, run=run: (op.prepare(), run()), cpu)
            # ours works in pieces of a fixed size, less than half a vector of this length
            allowed = op.extra_bytes.get(provider, 0) + 12e6
            assert 1e6 * megabytes <= allowed, (op.name, provider)


def rows(memory_gb: float) -> list[list[str]]:
    """The columns of each row, of a fiftieth of an eighth of Stable Diffusion's gradients: 47 MB, and 172 to check."""
    arguments = Namespace(scale=0.02, repeats=2, memory_gb=memory_gb, compile=False)
    return list(load_benchmark().rows_of("sd1", "0 of 8", "fp32", arguments, torch.device("cpu")))


def test_what_does_not_fit_is_left_out_and_says_so() -> None:
    (row,) = rows(memory_gb=0.1)
    assert row[:2] == ["all", "all"]
    assert row[4].startswith("left out: needs 0.2 GB, 0.1 GB are free")
    found = {(row[0], row[1]): row[4] for row in rows(memory_gb=0.23)}
    assert found["combine_", "cat"].startswith("left out")
    assert found["AdamW", "torch fused"].startswith("left out")
    assert float(found["combine_", "erasediff"]) > 0
    assert float(found["inner_products", "foreach"]) > 0
