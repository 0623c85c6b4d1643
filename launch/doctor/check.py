"""What a check is: each rank looks by itself, then rank 0 judges what they all have seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .config import DoctorConfig
from .finding import Finding
from .peers import Peers


@dataclass(frozen=True)
class Seen:
    """What the ranks saw, by rank."""

    peers: Peers
    config: DoctorConfig
    values: dict[int, Any]

    def by_host(self) -> dict[str | None, Any]:
        """What the first rank of each host saw."""
        first: dict[str | None, Any] = {}
        for rank, value in self.values.items():
            first.setdefault(self.peers.hosts[rank], value)
        return first

    def where(self, rank: int) -> str:
        """Before what concerns this rank alone."""
        return "" if self.peers.world_size == 1 else f"{self.peers.name(rank)}: "


@dataclass(frozen=True)
class Check:
    what: str
    look: Callable[[Peers, DoctorConfig], Any]
    """Runs on every rank, in a thread, and is cut off when it takes too long. Returns what JSON can hold; raising is a
    failure."""
    judge: Callable[[Seen], list[Finding]]
    """Runs on rank 0 where every rank's look came to an end."""
    todo: str = ""
    """What to do where a look fails."""
    is_joint: bool = False
    """The ranks wait for each other within the look, where the store cannot see them."""
