"""What is built before a run's first step: the kernels that it starts, by one rank of a node at a time."""

from __future__ import annotations

import fcntl
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from erasediff.kernels.exercise import exercise
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig, MethodConfig, TrainConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.methods.moo import MOOConfig
from erasediff.trainer.run import checks
from erasediff.trainer.scrubbing import run_scrub
from tiny import tiny_config

# where the engine, and the exercise, find them
PLACES = {
    "displace": ("erasediff.trainer.engine.sharded_model", "erasediff.kernels.exercise"),
    "inner_products_by_parameter": ("erasediff.trainer.engine.sharded_model", "erasediff.kernels.exercise"),
    "combine_": ("erasediff.trainer.engine.vector", "erasediff.kernels.exercise"),
    "multiplier": ("erasediff.kernels.multiplier", "erasediff.kernels.exercise"),
}
# read by Triton as they are, whatever their value
NUMBERS = ("alpha", "eta", "lambda_cap", "table")
Started = set[tuple[Any, ...]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Which kernels were started so far, and what decides what Triton compiles: types, alignment, what is left out."""
    found: Started = set()

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            bound = inspect.signature(function).bind(*args, **options)
            bound.apply_defaults()
            given = {key: value for key, value in bound.arguments.items() if key not in NUMBERS}
            found.add((name, *(key_of(name, value) for value in given.values())))
            return function(*args, **options)

        return call

    for name, places in PLACES.items():
        for place in places:
            module = importlib.import_module(place)
            monkeypatch.setattr(module, name, noting(name, getattr(module, name)))
    return found


def key_of(name: str, value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    shape = tuple(value.shape) if name == "multiplier" else None
    return (value.dtype, value.data_ptr() % 16 == 0, shape)


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        (EraseDiffConfig(inner_every=1, num_inner_steps=2), "fp32"),
        (EraseDiffConfig(barrier="value"), "bf16-autocast"),
        (EraseDiffConfig(gradient_of_g="first_order"), "fp32"),
        (MOOConfig(), "bf16"),
    ],
)
def test_what_a_run_starts_is_built_before(
    digits: Path, base_model: Path, tmp_path: Path, started: Started, method: MethodConfig, precision: Any
) -> None:
    engine = EngineConfig(device="cpu", precision=precision)
    train = TrainConfig(max_train_steps=2, train_batch_size=4)
    run_scrub(tiny_config(digits, base_model, tmp_path / "run", method=method, train=train, engine=engine))
    of_run = set(started)
    assert {"displace", "combine_"} <= {name for name, *_ in of_run}
    started.clear()
    exercise(torch.device("cpu"))
    assert of_run <= started


def test_one_rank_of_a_node_builds_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever builds holds the lock of the cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    built_for: list[str] = []

    def build(device: torch.device) -> None:
        with (tmp_path / "cache" / ".lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        built_for.append(device.type)

    monkeypatch.setattr(checks, "exercise", build)
    checks.check_kernels(torch.device("cpu"))
    checks.check_kernels(torch.device("cuda"))
    assert built_for == ["cuda"]

    def fail(device: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(checks, "exercise", fail)
    with pytest.raises(ConfigError, match="install a C compiler"):
        checks.check_kernels(torch.device("cuda"))


def test_processes_are_alone_one_after_the_other(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom erasediff.trainer.files import alone\n"
        "folder = Path(sys.argv[1])\n"
        "with alone(folder / 'cache'):\n"
        "    there = folder / 'there'\n"
        "    there.touch(exist_ok=False)\n"  # raises where another one is inside
        "    time.sleep(0.2)\n"
        "    there.unlink()\n"
    )
    racing = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(60) for process in racing] == [0] * 4
