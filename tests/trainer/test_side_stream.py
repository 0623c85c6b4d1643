"""What a step waits for: all tensors of its batches. The stream itself: tests/gpu."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from erasediff.shards import SampleBatch
from erasediff.trainer import EraseDiffConfig, side_stream
from erasediff.trainer.config import UNetConfig
from erasediff.trainer.models.families import unet2d
from erasediff.trainer.models.families.unet2d import make
from erasediff.trainer.models.model import Model
from erasediff.trainer.objectives import diffusion
from erasediff.trainer.objectives.diffusion import DiffusionBatch, DiffusionObjective
from erasediff.trainer.objectives.objective import Batches
from erasediff.trainer.objectives.targets import Noised
from erasediff.trainer.objectives.targets.rl import Teacher
from erasediff.trainer.side_stream import SideStream, tensors_in
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")


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


class Copies(TorchDispatchMode):
    """Storages of what is copied from the host to `meta`, a device that a machine without a GPU has."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = (kwargs or {}).get("device")
        if func is torch.ops.aten._to_copy.default and device == META and args[0].device.type == "cpu":
            assert kwargs["non_blocking"]
            self.found.append(args[0].data_ptr())
        return func(*args, **(kwargs or {}))


def batches_of(model: Model, samples: SampleBatch, target: str) -> None:
    method = EraseDiffConfig(target=target)
    objective = DiffusionObjective(model, META, seed=0, label_drop=0.0, method=method, others=[1, 2])
    objective.remain_batches(samples)
    objective.forget_batches(samples)


@pytest.mark.parametrize("target", ["rl", "noise", "surrogate"])
def test_what_a_batch_sends_to_a_device_lies_in_pinned_memory(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the host waits for each copy, and for all that the device was given before: `to_device` pins, on CUDA."""
    sent: list[Tensor] = []
    send = side_stream.to_device

    def to_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
        sent.append(torch.as_tensor(values))
        return send(sent[-1], device)

    for module in (diffusion, unet2d, side_stream):  # targets look it up as they run
        monkeypatch.setattr(module, "to_device", to_device)
    with META:
        model = make(UNetConfig(block_out_channels=(8,), norm_num_groups=8), image_size=8, channels=1, num_classes=10)
    images = np.zeros((3, 1, 8, 8), dtype=np.uint8)
    samples = SampleBatch(images, np.arange(3), np.ones(3, np.float32), np.arange(3), ("",) * 3)
    batches_of(model, samples, target)  # the schedule's factors go there once
    sent.clear()
    with Copies() as copies:
        batches_of(model, samples, target)
    assert copies.found == [values.data_ptr() for values in sent]
    # t, ε, pictures, classes and weights of both; of D_f a chance, and c_m or what the target draws
    assert len(sent) == 5 + 7
