"""Stage 3 on 1 and 2 real ranks, DeepSpeed told that its device is never done: where the host would wait for it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from engine_cases import SPREADS
from ranks import check, run_ranks

WORKER = Path(__file__).with_name("waits_worker.py")
LAUNCH_SECONDS = 800
pytestmark = pytest.mark.timeout(LAUNCH_SECONDS + 50)


@cache
def results(world_size: int) -> dict[str, Any]:
    """Of all spreads, launched once."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "results.json"
        environment = {"DS_ACCELERATOR": "cpu"}
        check(
            run_ranks(world_size, [str(WORKER), str(output)], environment=environment, timeout_seconds=LAUNCH_SECONDS)
        )
        return json.loads(output.read_text())


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("world_size", [1, 2])
def test_the_host_never_waits_for_the_device(world_size: int, spread: str) -> None:
    found = results(world_size)[spread]
    assert min(found["calls"].values()) >= 12
    if world_size == 1 or not SPREADS[spread].get("overlap_communication", True):
        assert found["waits"] == {}
        assert found["streams"] == 1, "what one gives up, another takes only when the device is there"
    else:
        # what bounds that memory: never a wait for the last two reductions or fetches
        assert found["waits"].keys() == {"event"}
        assert min(found["younger"]) == 2


def test_nor_where_inner_passes_alone_make_activations_again() -> None:
    """Each pass in another order than the one before; on several ranks DeepSpeed then learns it anew."""
    found = results(1)["inner"]
    assert min(found["calls"].values()) >= 12 and found["waits"] == {}


@pytest.mark.parametrize("spread", [*SPREADS, "large"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_the_device_waits_instead(world_size: int, spread: str) -> None:
    """Every stream for the one whose results it reads or overwrites."""
    assert results(world_size)[spread]["early"] == []
