"""The step's packet: a few named scalars, summed over ranks in one collective and read by the host one step late."""

from __future__ import annotations

import torch
from torch import Tensor

from . import distributed


class Packet:
    """Named fp64 scalars in one device tensor.

    `packet["name"]` is a 0-dim view on the device; nothing here waits for the device except `PendingPacket.read`.
    """

    def __init__(self, **scalars: Tensor):
        self.names = list(scalars)
        self.values = torch.stack([value.detach().to(torch.float64) for value in scalars.values()])

    def __getitem__(self, name: str) -> Tensor:
        return self.values[self.names.index(name)]

    def all_reduce_(self) -> Packet:
        """Sums every scalar over ranks. All ranks call it."""
        distributed.sum_(self.values)
        return self

    def extend(self, **scalars: Tensor) -> Packet:
        """Adds scalars that already are the same on every rank."""
        added = Packet(**scalars)
        self.names += added.names
        self.values = torch.cat([self.values, added.values])
        return self

    def to_host(self) -> PendingPacket:
        """Starts the copy to the host."""
        return PendingPacket(self)


class PendingPacket:
    """A packet on its way to the host."""

    def __init__(self, packet: Packet):
        self._names = packet.names
        self._event = None
        if packet.values.is_cuda:
            self._values = torch.empty(packet.values.shape, dtype=torch.float64, pin_memory=True)
            self._values.copy_(packet.values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._values = packet.values.clone()

    def read(self) -> dict[str, float]:
        """The scalars as numbers; waits for the copy."""
        if self._event is not None:
            self._event.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))
