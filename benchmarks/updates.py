"""The update δ of each reading against autograd over whole tensors: asked before a benchmark prints a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig, MethodConfig, OptimizerConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from pipelines import UNETS
from torch import Tensor, nn

NUM_SAMPLES = 4


@dataclass(frozen=True)
class Batch:
    x_t: Tensor
    t: Tensor
    labels: Tensor
    target: Tensor
    weights: Tensor


class GivenTargets:
    """An objective's calls on batches that are drawn already."""

    def with_own_targets(self, batches: list[Batch]) -> list[Batch]:
        return batches

    def with_forget_targets(self, model: ShardedModel, batches: list[Batch]) -> list[Batch]:
        return batches

    def loss(self, model: ShardedModel, batch: Batch) -> Tensor:
        return loss_of(model.predict, batch)


def loss_of(forward: Any, batch: Batch) -> Tensor:
    output = forward(batch.x_t, batch.t, class_labels=batch.labels, return_dict=False)[0]
    return (output - batch.target).square().flatten(1).mean(1)


def error_of(config: MethodConfig, device: torch.device, zero_stage: int) -> float:
    """‖δ - reference‖/‖reference‖ on the digits' model in fp32. All ranks call it; each has the same samples."""
    import diffusers

    library: Any = diffusers
    torch.manual_seed(0)
    module: Any = library.UNet2DModel(**UNETS["digits"]).to(device)

    def batch(seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        x_t, target = (torch.randn(NUM_SAMPLES, 1, 8, 8, generator=generator).to(device) for _ in range(2))
        t, labels = (torch.randint(top, (NUM_SAMPLES,), generator=generator).to(device) for top in (1000, 10))
        return Batch(x_t, t, labels, target, torch.ones(NUM_SAMPLES, device=device))

    remain, forget = batch(1), batch(2)
    theta = {name: value.detach().clone() for name, value in module.named_parameters()}

    def gradient(at: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        module.load_state_dict(at)
        loss = loss_of(module, batch).mean()
        return loss.detach(), dict(zip(at, torch.autograd.grad(loss, list(module.parameters())), strict=True))

    def dot(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        return torch.stack([(a[name].double() * b[name].double()).sum() for name in a]).sum()

    _, expected = gradient(theta, remain)
    if isinstance(config, EraseDiffConfig):
        loss_f, grad_f = gradient(theta, forget)
        loss_phi, grad_phi = gradient({name: theta[name] - config.xi * grad_f[name] for name in theta}, forget)
        first_order = config.gradient_of_g == "first_order"
        grad_g = {name: grad_f[name] - grad_phi[name] if first_order else grad_f[name] for name in theta}
        squared = dot(grad_g, grad_g)
        a_t = config.eta * ((loss_f - loss_phi).clamp(min=0) if config.barrier == "value" else squared)
        lambda_t = ((a_t - dot(grad_g, expected)) / squared).clamp(min=0)
        expected = {name: expected[name] + (lambda_t * grad_g[name]).float() for name in theta}
    module.load_state_dict(theta)
    kind = "cuda" if device.type == "cuda" else "cpu"
    engine = EngineConfig(device=kind, zero_stage=zero_stage)  # pyright: ignore[reportArgumentType]
    model = ShardedModel(nn.Module.to(module, device), engine, OptimizerConfig(), device, max_train_steps=1)
    # what these methods ask of it is there
    given: Any = GivenTargets()
    method = config.make(given)
    delta = model.gather(method.step(model, [forget], [remain], 0, diagnose=False).delta)
    if not delta:  # another rank than the first
        return 0.0
    difference = {name: delta[name] - expected[name].cpu() for name in delta}
    reference = {name: value.cpu() for name, value in expected.items()}
    return float((dot(difference, difference) / dot(reference, reference)).sqrt())
