"""What is said of a step, in numbers of known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from erasediff.trainer.engine.packet import Layers, Packet
from erasediff.trainer.ranks import meeting

CPU = torch.device("cpu")


def test_a_layers_cosine_is_that_of_its_parameters_together_and_never_beyond_one() -> None:
    """Vectors along one line: rounding takes ⟨u, v⟩ / ‖u‖‖v‖ past 1 and -1 for some."""
    u, v = np.random.default_rng(0).standard_normal((2, 400))
    raw = u * v / np.sqrt(u * u * (v * v))
    assert raw.max() > 1 and raw.min() < -1
    rows = torch.from_numpy(np.stack([u * u, u * v, v * v], axis=1))
    names = [f"{i}.weight" for i in range(400)]
    found = Packet(rows, loss_r=torch.zeros(())).cosines_by_layer(Layers(names, CPU))
    assert [float(found[str(i)]) for i in range(400)] == pytest.approx(np.sign(u * v).tolist(), abs=1e-12)
    assert all(-1 <= float(value) <= 1 for value in found.values())

    # (3, 4) and (4, 3), a coordinate each; (0, 0) and (1, 0)
    rows = torch.tensor([[9.0, 12.0, 16.0], [16.0, 12.0, 9.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    found = Packet(rows, loss_r=torch.zeros(())).cosines_by_layer(Layers(["a.weight", "a.bias", "b.weight"], CPU))
    assert {name: float(value) for name, value in found.items()} == {"a": pytest.approx(24 / 25), "b": 0.0}


def test_the_wish_to_meet_travels_beside_the_sums() -> None:
    """And is no part of them: in most steps nobody asks."""
    rows = torch.arange(6, dtype=torch.float64).view(2, 3)
    for asks in (False, True):
        packet = Packet(rows, loss_r=torch.tensor(7.0), loss_f=torch.tensor(-2.0))
        if asks:
            meeting.announce()
        packet.all_reduce_()
        meeting.met()
        assert packet.meet.item() == float(asks)
        assert packet.values.tolist() == [7.0, -2.0] and torch.equal(packet.by_parameter, rows)
