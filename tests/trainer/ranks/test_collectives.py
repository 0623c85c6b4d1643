"""Which CUDA device a rank takes, and what `deterministic` sets: decided without one."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.ranks import collectives
from erasediff.trainer.ranks.collectives import device_index


@pytest.mark.parametrize(
    ("local_rank", "num_visible", "num_ranks", "expected"),
    [
        (None, 1, 1, 0),
        (None, 8, 1, 0),
        ("0", 8, 8, 0),
        ("7", 8, 64, 7),
        ("3", 1, 8, 0),  # each task sees its own alone
        (None, 1, 8, 0),
    ],
)
def test_each_rank_takes_a_device_that_it_sees(
    local_rank: str | None, num_visible: int, num_ranks: int, expected: int
) -> None:
    assert device_index(local_rank, num_visible, num_ranks) == expected


def test_ranks_that_would_share_a_device_are_refused() -> None:
    with pytest.raises(ConfigError, match="LOCAL_RANK is not set, 8 ranks run and this one sees 4 CUDA devices"):
        device_index(None, 4, 8)
    with pytest.raises(ConfigError, match="LOCAL_RANK is 4, but this node has 4 CUDA devices: start 4 ranks"):
        device_index("4", 4, 8)


def test_deterministic_fills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    settings: Any = torch.utils.deterministic
    was_filling = settings.fill_uninitialized_memory
    try:
        collectives.make_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        # a deterministic torch writes NaN into each of these otherwise; the allocator may use the first few
        left = torch.empty(1 << 12)
        left.fill_(3.0)
        address = left.data_ptr()
        del left
        again = torch.empty(1 << 12)
        assert again.data_ptr() != address or not again.isnan().all()
        assert not settings.fill_uninitialized_memory
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
        settings.fill_uninitialized_memory = was_filling
