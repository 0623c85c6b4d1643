"""What one would run without erasediff, on the same UNet and such samples: plain training, the same by accelerate, the
research code, FSDP2.

Each is a class whose `step` is one iteration, batches made beforehand and on the device.

`Plain`: fine-tuning in plain torch: an iteration does the passes of one of ours, n gradients and m forward passes, and
a fused step of AdamW or SGD.
`Accelerated`: the same passes as diffusers' examples do theirs: a module and an optimizer that accelerate has prepared,
under its autocast, its backward, and gradients clipped to a norm of 1 before the step.
`Released`: the step of the paper's released code, from its description: two losses, both graphs kept, a target with a
graph that is thrown away, `torch.cat` of all gradients, and a third backward pass of the weighted sum; with K = 1 also
a copy of all weights, an inner step of the same optimizer, and the weights put back. Not its `gc.collect` and
`empty_cache`.
`FullyShard`: `Plain` under torch's FSDP2, a unit for each block of the UNet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from erasediff.trainer.bench.synthetic import random_model
from erasediff.trainer.config import EngineConfig, ModelConfig
from erasediff.trainer.config.cost import Cost
from erasediff.trainer.engine.arithmetic import tf32
from erasediff.trainer.engine.attention import set_attention
from erasediff.trainer.engine.recomputing import Recomputing
from erasediff.trainer.engine.switches import set_switches
from erasediff.trainer.models.model import Model, Told
from torch import Tensor, nn

LEARNING_RATE = 1e-4
# of the examples and of the research code
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Batch:
    x_t: Tensor
    t: Tensor
    told: Told
    target: Tensor


def batches(model: Model, size: int, micro: int | None, device: torch.device) -> list[Batch]:
    """A batch in micro-batches of at most `micro` samples."""
    made = []
    for start in range(0, size, micro or size):
        count = min(micro or size, size - start)
        x_t = torch.randn(count, *model.latent_shape, device=device)
        conditions = [model.conditions.known()[0]] * count
        t = torch.randint(model.schedule.num_timesteps, (count,), device=device)
        made.append(Batch(x_t, t, model.told(conditions, device), torch.randn_like(x_t)))
    return made


class Plain:
    def __init__(
        self,
        path: str,
        cost: Cost,
        engine: EngineConfig,
        size: int,
        device: torch.device,
        image_size: int | None,
        optimizer: str = "adamw",
    ):
        self.cost, self._engine, self._device = cost, engine, device
        self._model = random_model(ModelConfig(path, image_size=image_size), device)
        module: Any = self._model.module
        self._dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
        nn.Module.to(module, self._dtype)
        set_attention(module, engine.attention)
        set_switches(module, engine, device)
        self._recomputing = Recomputing(
            module, engine.activation_checkpointing, share=engine.activation_checkpointing_share
        )
        self.module = self._sharded(module)
        made = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
        self._optimizer = made(self.module.parameters(), lr=LEARNING_RATE, fused=self._can_fuse)
        self._remain, self._forget = (batches(self._model, size, engine.forward_batch_size, device) for _ in range(2))

    _can_fuse = True

    def _sharded(self, module: nn.Module) -> nn.Module:
        return module

    def _output(self, batch: Batch, *, exact: bool = False) -> Tensor:
        autocasts = self._engine.precision == "bf16-autocast" and not exact
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=autocasts):
            return self._model.predict(self.module, batch.x_t, batch.t, batch.told, self._dtype)

    def _arithmetic(self, exact: bool) -> AbstractContextManager[None]:
        """Around a pass, backward included."""
        return tf32(self._engine.precision == "tf32" and not exact)

    def _loss(self, batch: Batch, *, exact: bool = False) -> Tensor:
        return F.mse_loss(self._output(batch, exact=exact), batch.target)

    def _gradient(self, parts: list[Batch], *, exact: bool) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        for batch in parts:
            with self._recomputing.at(inner=False):
                self._backward(self._loss(batch, exact=exact) / len(parts))

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        cost = self.cost
        for number in range(cost.forwards):
            exact = number < cost.exact_forwards
            with torch.no_grad(), self._arithmetic(exact):
                for batch in self._forget:
                    self._output(batch, exact=exact)
        for number in range(cost.gradients):
            exact = number < cost.exact_gradients
            with self._arithmetic(exact):
                self._gradient(self._forget if number else self._remain, exact=exact)
        self._update()

    def _update(self) -> None:
        self._optimizer.step()


class Accelerated(Plain):
    """On one rank. No pass of it is exact: all run under the autocast that it is prepared for."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self._optimizer = self._accelerator.prepare(self._optimizer)

    def _sharded(self, module: nn.Module) -> nn.Module:
        from accelerate import Accelerator

        autocasts = self._engine.precision == "bf16-autocast"
        self._accelerator = Accelerator(mixed_precision="bf16" if autocasts else "no", cpu=self._device.type == "cpu")
        return self._accelerator.prepare(module)

    def _output(self, batch: Batch, *, exact: bool = False) -> Tensor:
        return self._model.predict(self.module, batch.x_t, batch.t, batch.told, self._dtype)

    def _backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def _update(self) -> None:
        self._accelerator.clip_grad_norm_(self.module.parameters(), MAX_GRAD_NORM)
        super()._update()


class Released(Plain):
    """cost: of ours beside it; with more than 2 gradients or 1 forward pass it has K = 1."""

    def step(self) -> None:
        with self._arithmetic(exact=False), self._recomputing.at(inner=False):
            self._step()

    def _step(self) -> None:
        parameters = [value for value in self.module.parameters() if value.requires_grad]
        if self.cost.gradients > 2 or self.cost.forwards > 1:
            saved = [value.detach().clone() for value in parameters]
            self._optimizer.zero_grad()
            self._forget_loss(self._forget[0]).backward()
            self._optimizer.step()
            with torch.no_grad():
                for value, before in zip(parameters, saved, strict=True):
                    value.copy_(before)
        (remain,), (forget,) = self._remain, self._forget
        loss_r, loss_f = self._loss(remain), self._forget_loss(forget)
        flat = [
            torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters, retain_graph=True)])
            for loss in (loss_r, loss_f)
        ]
        inner, norm = flat[0].dot(flat[1]), flat[1].norm()
        weight = (0.1 - inner / (flat[0].norm() * norm + 1e-8)).clamp(min=0).detach()
        self._optimizer.zero_grad()
        (loss_r + weight * loss_f).backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        self._optimizer.step()

    def _forget_loss(self, batch: Batch) -> Tensor:
        pseudo = self._output(batch).detach()  # with its graph, as there
        return F.mse_loss(self._output(batch), pseudo)


class FullyShard(Plain):
    """engine.zero_stage 3: weights are gathered again for the backward pass; else they stay from the forward pass."""

    # its parameters are DTensors, which the fused kernel takes on CUDA
    _can_fuse = torch.cuda.is_available()

    def _sharded(self, module: nn.Module) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(self._device.type, (torch.distributed.get_world_size(),))
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        gathers_again = self._engine.zero_stage == 3
        for block in _blocks(module):
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=gathers_again)
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=gathers_again)
        return module

    def _gradient(self, parts: list[Batch], *, exact: bool) -> None:
        sharded: Any = self.module
        for number, batch in enumerate(parts, start=1):
            # one reduction a loss, as ours
            sharded.set_requires_gradient_sync(number == len(parts))
            if number == 1:
                self._optimizer.zero_grad(set_to_none=True)
            with self._recomputing.at(inner=False):
                (self._loss(batch, exact=exact) / len(parts)).backward()


def _blocks(module: Any) -> Iterator[nn.Module]:
    yield from module.down_blocks
    if module.mid_block is not None:
        yield module.mid_block
    yield from module.up_blocks
