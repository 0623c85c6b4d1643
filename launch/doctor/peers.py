"""The ranks that look together. They meet in a store, not in a process group: that is one of the things looked at."""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import timedelta
from itertools import count
from typing import Any

from torch.distributed import DistError, HashStore, PrefixStore, Store, TCPStore

from ...trainer.errors import ConfigError, LostRankError

# the ranks' watches start within it: a rank says that it was too slow before rank 0 stops waiting for it
GRACE_SECONDS = 5.0

# the server ends with the last reference to it: a run that follows in these processes uses it at the same address
_store: Store | None = None
_meetings = count()


class Peers:
    """This rank and the others."""

    def __init__(self, prefix: str, store: Store, rank: int, world_size: int, limit_seconds: float):
        self._prefix = prefix
        self.store = PrefixStore(prefix, store)
        self.rank = rank
        self.world_size = world_size
        self.limit_seconds = limit_seconds
        """What one check may take."""
        self.hosts: list[str | None] = []
        """By rank; None for a rank that did not come."""
        self.lost: set[int] = set()
        """Ranks that did not come, or do not answer any more: nobody waits for them."""

    @classmethod
    def meet(cls, limit_seconds: float) -> Peers:
        """All ranks that the launcher's environment describes; none: this process alone.

        Raises ConfigError for an environment that is not whole, LostRankError where rank 0 does not answer.
        """
        global _store
        prefix = f"erasediff-doctor/{next(_meetings)}"
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            peers = cls(prefix, HashStore(), 0, 1, limit_seconds)
        else:
            _store = _store or _connect(rank, world_size, limit_seconds)
            peers = cls(prefix, _store, rank, world_size, limit_seconds)
        peers._call_the_roll()
        return peers

    def _call_the_roll(self) -> None:
        self.tell(f"here/{self.rank}", socket.gethostname())
        if self.rank == 0:
            until = time.monotonic() + self.limit_seconds
            for rank in range(self.world_size):
                self.hosts.append(self.hear(f"here/{rank}", until - time.monotonic()))
            self.tell("hosts", self.hosts)
        else:
            self.hosts = self.hear_from_main("hosts")
        self.lost = {rank for rank, host in enumerate(self.hosts) if host is None}

    def tell(self, name: str, value: Any) -> None:
        """Lets the others know a value that JSON can hold. Raises LostRankError where rank 0 has left."""
        try:
            self.store.set(name, json.dumps(value))
        except (DistError, RuntimeError) as error:
            raise _lost(error) from None

    def hear(self, name: str, seconds: float) -> Any:
        """What another rank tells, or None after so long. Raises LostRankError where rank 0 has left."""
        until = time.monotonic() + seconds
        pause = 0.001
        try:
            while not self.store.check([name]):
                if time.monotonic() > until:
                    return None
                time.sleep(pause)
                pause = min(2 * pause, 0.02 + self.world_size / 2000)
            return json.loads(self.store.get(name))
        except (DistError, RuntimeError) as error:
            raise _lost(error) from None

    def hear_from_main(self, name: str) -> Any:
        """What rank 0 tells once it has heard of all ranks. Raises LostRankError where it does not."""
        told = self.hear(name, 3 * self.limit_seconds + 4 * GRACE_SECONDS)
        if told is None:
            raise LostRankError("rank 0 does not answer, its log may say why")
        return told

    def own_store(self) -> Store:
        """For a process group: its waits would hold up whoever else uses the same connection."""
        alone = self.world_size == 1
        store = HashStore() if alone else _connect(self.rank, self.world_size, self.limit_seconds)
        return PrefixStore(f"{self._prefix}/group", store)

    def present(self) -> list[int]:
        """The ranks that came and still answer, this one too."""
        return [rank for rank in range(self.world_size) if rank not in self.lost]

    def share(self) -> tuple[int, int]:
        """This rank's number among those of its host, and how many they are."""
        here = [rank for rank in self.present() if self.hosts[rank] == self.hosts[self.rank]]
        return here.index(self.rank), len(here)

    def name(self, *ranks: int) -> str:
        """As messages name them."""
        if self.world_size == 1:
            return "this process"
        if len(ranks) == self.world_size:
            return "every rank"
        hosts = sorted({self.hosts[rank] or "not there" for rank in ranks})
        shown = ", ".join(map(str, ranks[:8])) + (" …" if len(ranks) > 8 else "")
        return f"rank{'s' if len(ranks) > 1 else ''} {shown} ({', '.join(hosts[:4])}{' …' if len(hosts) > 4 else ''})"


def _connect(rank: int, world_size: int, limit_seconds: float) -> Store:
    """To the address at which the ranks of a run find each other."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"WORLD_SIZE is {world_size}, and {missing[0]} is not set: the launcher has to set it")
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    # torchrun's own process may serve the store
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        return TCPStore(
            address,
            int(port),
            world_size,
            serves,
            timedelta(seconds=limit_seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (DistError, RuntimeError, ValueError) as error:
        where = f"MASTER_ADDR = {address}, MASTER_PORT = {port}"
        reason = str(error).partition("\n")[0]
        if rank == 0:
            raise ConfigError(f"{where}: rank 0 cannot listen there ({reason}); another port may do") from None
        raise LostRankError(f"{where}: rank 0 does not answer ({reason})") from None


def _lost(error: Exception) -> LostRankError:
    return LostRankError(f"rank 0 has left, its log may say why ({str(error).partition(chr(10))[0]})")
