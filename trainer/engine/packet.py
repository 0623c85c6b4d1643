"""The step's packet: what the host must know of a step, summed over ranks in one collective, read one step late."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ranks import collectives, meeting


class Layers:
    """Which parameters are whose. Made once: it is copied to the device, for which the host waits."""

    def __init__(self, parameter_names: Sequence[str], device: torch.device):
        numbers: dict[str, list[int]] = {}
        for number, name in enumerate(parameter_names):
            numbers.setdefault(name.rpartition(".")[0], []).append(number)
        self.names = list(numbers)
        most = max(map(len, numbers.values()))
        # one row a layer, filled up with the number after the last
        filled = [row + [len(parameter_names)] * (most - len(row)) for row in numbers.values()]
        self.rows = torch.tensor(filled, device=device)


class Packet:
    """Named fp64 scalars in one device tensor, and beside them a table of sums for each parameter.

    `packet["name"]` is a 0-dim view on the device; nothing here waits for the device except `PendingPacket.read`.
    """

    def __init__(self, by_parameter: Tensor, **scalars: Tensor):
        self.by_parameter = by_parameter  # fp64 [P, 3 or 6], as `kernels.inner_products_by_parameter` has it
        self.names: list[str] = []
        self.values = by_parameter.new_empty(0)
        self.meet = by_parameter.new_zeros(())  # how many ranks ask all of them to meet, see `ranks.meeting`, 0-dim
        self.extend(**scalars)

    def __getitem__(self, name: str) -> Tensor:
        return self.values[self.names.index(name)]

    def all_reduce_(self) -> Packet:
        """Sums the scalars and the table over ranks, in one collective, and with them `meet`. All ranks call it."""
        num_scalars, shape = len(self.values), self.by_parameter.shape
        # filled on the device: a copy from the host would wait for it
        meet = self.values.new_full((1,), float(meeting.wants_to_meet()))
        whole = collectives.sum_(torch.cat([self.values, self.by_parameter.flatten(), meet]))
        self.values, self.by_parameter = whole[:num_scalars], whole[num_scalars:-1].view(shape)
        self.meet = whole[-1]
        return self

    def extend(self, **scalars: Tensor) -> Packet:
        """Adds scalars; after `all_reduce_`, such as already are the same on every rank."""
        self.names += scalars
        self.values = torch.stack([*self.values, *(value.detach().double() for value in scalars.values())])
        return self

    def cosines_by_layer(self, layers: Layers) -> dict[str, Tensor]:
        """⟨u, v⟩ / ‖u‖‖v‖ in each layer, of a table whose first columns are uu, uv and vv; 0 where one is zero."""
        with_zeros = nn.functional.pad(self.by_parameter, (0, 0, 0, 1))
        uu, uv, vv = with_zeros[layers.rows].sum(1).T[:3]
        cosine = (uv / (uu * vv).clamp(min=1e-300).sqrt()).clamp(-1, 1)
        return dict(zip(layers.names, cosine, strict=True))

    def to_host(self) -> PendingPacket:
        """Starts the copy of the scalars to the host."""
        return PendingPacket(self)


class Moment:
    """When the device has come so far in what it was told to do; on a CPU that is now."""

    def __init__(self, device: torch.device):
        self._event = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()
        else:
            self._time = time.perf_counter()

    def wait(self) -> None:
        """Until it has."""
        if self._event is not None:
            self._event.synchronize()

    def seconds_since(self, earlier: Moment) -> float:
        """Waits for both."""
        if self._event is None or earlier._event is None:
            return self._time - earlier._time
        self.wait()
        return earlier._event.elapsed_time(self._event) / 1000


class PendingPacket:
    """A packet on its way to the host."""

    def __init__(self, packet: Packet):
        self._names = packet.names
        if packet.values.is_cuda:
            self._values = torch.empty(packet.values.shape, dtype=torch.float64, pin_memory=True)
            self._values.copy_(packet.values, non_blocking=True)
        else:
            self._values = packet.values.clone()
        self.moment = Moment(packet.values.device)
        """Of its arrival."""

    def read(self) -> dict[str, float]:
        """The scalars as numbers; waits for the copy."""
        self.moment.wait()
        return dict(zip(self._names, self._values.tolist(), strict=True))
