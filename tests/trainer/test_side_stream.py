"""What a step waits for: all tensors of its batches. The stream itself: tests/gpu."""

from __future__ import annotations

import numpy as np
import torch
from erasediff.trainer.objectives.diffusion import DiffusionBatch
from erasediff.trainer.objectives.objective import Batches
from erasediff.trainer.objectives.targets import Noised
from erasediff.trainer.objectives.targets.rl import Teacher
from erasediff.trainer.side_stream import SideStream, tensors_in


def test_every_tensor_of_a_steps_batches_is_found() -> None:
    made = [torch.full((1,), float(i)) for i in range(9)]
    noised = Noised(made[0], made[1], made[2], made[3], [1, 2], {"class_labels": made[4]})
    remain = DiffusionBatch(noised, made[5], made[6])
    forget = DiffusionBatch(noised, None, made[7], Teacher([3], {"class_labels": made[8]}))
    found = list(tensors_in(Batches([remain], [forget], (("key", "what"),))))
    assert {id(value) for value in found} == {id(value) for value in made}


def test_on_a_cpu_a_batch_is_what_was_made() -> None:
    made = [np.zeros(1), torch.ones(2)]
    assert SideStream(torch.device("cpu")).make(lambda: made).take() is made
