"""How far g and ∇g are from fp64, by the arithmetic of the passes whose difference they are.

    python benchmarks/precision.py demo/base/model demo/sets/forget demo/sets/remain    # after `make demo`

g = L_f(θ) - L_f(φ^K) and first_order's ∇g = ∇L_f(θ) - ∇L_f(φ^K) on batches of D_f with the rl target, one inner step.
Plain torch has every pass in one arithmetic; `erasediff` is the engine, whose bf16-autocast chooses by pass. TF32 is
emulated where there is none: inputs of convolutions and matrix products rounded to 10 bits, sums in fp32.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from erasediff.shards import Dataset, Stream
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.methods._two_gradients import Descent
from erasediff.trainer.models.class_names import labels_of
from erasediff.trainer.models.families import load_model
from erasediff.trainer.objectives.diffusion import DiffusionBatch, DiffusionObjective
from erasediff.trainer.ranks import collectives
from rows import Rows
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
Tensors = dict[str, Tensor]
PRODUCTS = {torch.ops.aten.convolution, torch.ops.aten.convolution_backward}
PRODUCTS |= {torch.ops.aten.addmm, torch.ops.aten.mm, torch.ops.aten.bmm}


class EmulatedTF32(TorchDispatchMode):
    """Rounds what convolutions and matrix products read to TF32's 10 bits of mantissa, to nearest."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in PRODUCTS:
            args = [self._rounded(arg) if isinstance(arg, Tensor) else arg for arg in args]
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _rounded(x: Tensor) -> Tensor:
        bits = x.contiguous().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).reshape(x.shape)


ARITHMETIC: dict[str, tuple[torch.dtype, Callable[[], Any]]] = {
    "fp64": (torch.float64, contextlib.nullcontext),
    "fp32": (torch.float32, contextlib.nullcontext),
    "TF32, emulated": (torch.float32, EmulatedTF32),
    "bf16-autocast": (torch.float32, lambda: torch.autocast("cpu", torch.bfloat16)),
}


def plain(
    module: nn.Module, theta: Tensors, batch: DiffusionBatch, xi: float, arithmetic: str
) -> tuple[float, Tensors]:
    """(g, ∇g) by whole-tensor autograd."""
    dtype, context = ARITHMETIC[arithmetic]
    nn.Module.to(module, dtype)

    def gradient(at: Tensors) -> tuple[float, Tensors]:
        module.load_state_dict(at)
        with context():
            x_t = batch.noised.x_t.to(dtype)
            output = module(x_t, batch.noised.timesteps, **batch.noised.told, return_dict=False)[0].to(dtype)
            assert batch.target is not None
            loss = (batch.target.to(dtype) - output).square().mean()
            gradients = torch.autograd.grad(loss, list(module.parameters()))
        return loss.item(), {name: g.double() for name, g in zip(at, gradients, strict=True)}

    theta = {name: value.to(dtype) for name, value in theta.items()}
    loss_f, grad_f = gradient(theta)
    loss_phi, grad_phi = gradient({name: theta[name] - xi * grad_f[name].to(dtype) for name in theta})
    return loss_f - loss_phi, {name: grad_f[name] - grad_phi[name] for name in theta}


def of_engine(model: ShardedModel, batch: DiffusionBatch, xi: float, reading: str) -> tuple[float, Tensors | None]:
    """(g, ∇g) as the method's step takes them; without ∇g where the reading has no difference of gradients."""

    class Given:
        def with_own_targets(self, batches: Any) -> Any:
            return batches

        def with_forget_targets(self, model: ShardedModel, batches: Any) -> Any:
            return batches

        loss = staticmethod(objective_loss)

    config = EraseDiffConfig(gradient_of_g=reading, barrier="value", xi=xi)  # pyright: ignore[reportArgumentType]
    # what these steps ask of it is there
    given: Any = Given()
    update = config.make(given).step(model, [batch], [batch], 0, diagnose=True)
    assert isinstance(update.observe, Descent)
    grad_f, grad_phi = update.observe.grad_f, update.observe.grad_phi
    if grad_phi is None:
        return float(update.packet["g"]), None
    grad_g = grad_f.clone().axpy_(-1.0, grad_phi)
    return float(update.packet["g"]), {name: value.double() for name, value in model.gather(grad_g).items()}


def objective_loss(model: ShardedModel, batch: DiffusionBatch) -> Tensor:
    output = model.predict(batch.noised.x_t, batch.noised.timesteps, **batch.noised.told, return_dict=False)[0].float()
    assert batch.target is not None
    return (batch.target - output).square().flatten(1).mean(1)


def cosine(a: Tensors, b: Tensors) -> float:
    def dot(u: Tensors, v: Tensors) -> float:
        return sum(float((u[name] * v[name]).sum()) for name in u)

    return dot(a, b) / (dot(a, a) * dot(b, b)) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a class-conditional pipeline folder")
    parser.add_argument("forget")
    parser.add_argument("remain")
    parser.add_argument("--null-class", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--xi", type=float, nargs="+", default=[1e-3, 1e-2])
    options = parser.parse_args()
    collectives.set_up(EngineConfig(device="cpu"))
    model = load_model(ModelConfig(path=options.model, null_class=options.null_class))
    theta = {name: value.detach().clone() for name, value in model.module.named_parameters()}
    forget, remain = Dataset.open(options.forget), Dataset.open(options.remain)
    objective = DiffusionObjective(
        model, CPU, seed=0, label_drop=0.0, method=EraseDiffConfig(), others=labels_of(remain)
    )
    engine = EngineConfig(device="cpu", precision="bf16-autocast")
    sharded = ShardedModel(model.module, engine, OptimizerConfig(), CPU, max_train_steps=1)
    stream = Stream(forget, seed=0, batch_size=options.batch_size)
    drawn = [objective.forget_batches(stream.batch(number))[0] for number in range(options.batches)]
    batches = [objective.with_forget_targets(sharded, [batch])[0] for batch in drawn]
    module = load_model(ModelConfig(path=options.model, null_class=options.null_class)).module
    table = Rows(["ξ", "arithmetic", f"cosine of ∇g to fp64's, {len(batches)} batches", "g over fp64's"])
    for xi in options.xi:
        exact = [plain(module, theta, batch, xi, "fp64") for batch in batches]
        found = {
            name: [plain(module, theta, batch, xi, name) for batch in batches] for name in ARITHMETIC if name != "fp64"
        } | {
            f"erasediff bf16-autocast, {reading}": [of_engine(sharded, batch, xi, reading) for batch in batches]
            for reading in ("first_order", "envelope")
        }
        for name, results in found.items():
            cosines = [
                "–" if grad_g is None else f"{cosine(grad_g, expected):.4f}"
                for (_, grad_g), (_, expected) in zip(results, exact, strict=True)
            ]
            ratios = [f"{g / expected:.3f}" for (g, _), (expected, _) in zip(results, exact, strict=True)]
            table.add(f"{xi:g}", name, ", ".join(cosines), ", ".join(ratios))


if __name__ == "__main__":
    main()
