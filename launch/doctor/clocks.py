"""Clocks that agree: logs of several hosts are read side by side, and file systems compare times."""

from __future__ import annotations

import time

from .check import Check, Seen
from .config import DoctorConfig
from .finding import Finding
from .peers import Peers

MAX_SECONDS = 1.0
# the least of them: a rank that is late to hear looks like a clock that is ahead
_ROUNDS = 3


def _look(peers: Peers, config: DoctorConfig) -> float:
    """Seconds that this clock is ahead of rank 0's, and that the message took."""
    ahead = []
    for number in range(_ROUNDS):
        peers.tell(f"clock/{number}/{peers.rank}", True)
        if peers.rank == 0:
            for rank in peers.present():
                peers.hear(f"clock/{number}/{rank}", peers.limit_seconds / 5)
            peers.tell(f"clock/{number}", time.time())
        theirs = peers.hear(f"clock/{number}", peers.limit_seconds / 4)
        if theirs is None:
            raise TimeoutError("rank 0 did not tell its time")
        ahead.append(time.time() - theirs)
    return min(ahead)


def _judge(seen: Seen) -> list[Finding]:
    if len(seen.values) == 1:
        return [Finding("ok", "clocks", "one rank, nothing to compare")]
    last, first = max(seen.values, key=lambda r: seen.values[r]), min(seen.values, key=lambda r: seen.values[r])
    spread = seen.values[last] - seen.values[first]
    if spread > MAX_SECONDS:
        found = f"{seen.peers.name(last)} is {spread:.1f} s ahead of {seen.peers.name(first)}"
        return [Finding("warning", "clocks", found, "let the nodes ask one time server (chrony)")]
    return [Finding("ok", "clocks", f"at most {max(spread, 0.01):.2f} s apart")]


CHECK = Check("clocks", _look, _judge)
