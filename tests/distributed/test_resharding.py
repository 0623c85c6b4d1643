"""A checkpoint read on another number of ranks and at another stage: the same state, and the same next step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import check, run_ranks
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("checkpoint_worker.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 ranks write at stage 2; 1 rank reads that and writes on; 3 ranks read what it wrote, at stages 2 and 3."""
    folder = tmp_path_factory.mktemp("resharding")
    for name in ("two", "one"):
        (folder / name).mkdir()
    for world_size, read, written, stages in [
        (2, "none", "two", "2"),
        (1, "two", "one", "2"),
        (3, "one", "none", "23"),
    ]:
        places = [name if name == "none" else str(folder / name) for name in (read, written)]
        check(run_ranks(world_size, [str(WORKER), str(folder), *places, *stages]))
    return folder


@pytest.mark.parametrize(
    ("written", "read"),
    [("written-2", "read-1-zero2"), ("written-1", "read-3-zero2"), ("written-1", "read-3-zero3")],
)
def test_state_is_bit_equal_and_the_next_delta_the_same(results: Path, written: str, read: str) -> None:
    before = load_file(results / f"{written}.safetensors")
    after = load_file(results / f"{read}.safetensors")
    assert before.keys() == after.keys()
    assert {name.partition("/")[0] for name in before} == {"theta", "exp_avg", "exp_avg_sq", "delta"}
    squared = apart = 0.0
    for name, value in before.items():
        if name.startswith("delta/"):
            squared += float(value.double().square().sum())
            apart += float((value.double() - after[name].double()).square().sum())
        else:
            assert torch.equal(value, after[name]), name
    assert squared > 0
    assert apart**0.5 <= 1e-5 * squared**0.5
