"""What each forget target brings along: η where nobody sets it, and the forward passes that it takes."""

from __future__ import annotations

from typing import Any

import pytest
from erasediff.trainer.config import ScrubConfig
from erasediff.trainer.config.toml import decode, over_defaults


@pytest.mark.parametrize(
    ("target", "eta", "num_forwards"),
    [
        ("rl", 0.5, 1),
        ("noise", 1e-4, 0),
        ("neighbours", 0.5, 0),
        ("surrogate", 0.5, 0),
        # of the original model, with a condition and without one
        ("negative_guidance", 0.5, 2),
    ],
)
def test_eta_and_passes_of_a_target(target: str, eta: float, num_forwards: int) -> None:
    required: dict[str, Any] = {"model": {"path": "m"}, "forget": "f", "remain": "r", "output": "o"}
    values = required | {"method": {"target": target}}
    method: Any = decode(ScrubConfig, over_defaults(ScrubConfig, ScrubConfig.decided(values, {})), "here").method
    assert (method.target, method.eta) == (target, eta)
    assert method.cost("fp32").forwards == num_forwards
