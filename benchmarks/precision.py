"""How far g and ∇g are from exact ones, by the arithmetic of the passes whose difference they are.

    python benchmarks/precision.py demo/base/model demo/erased/split/forget demo/erased/split/remain  (a demo)
    python benchmarks/precision.py FOLDER --device cuda --reference fp32 --batch-size 16    # one of pipelines.py

g = L_f(θ) - L_f(φ^K) and first_order's ∇g = ∇L_f(θ) - ∇L_f(φ^K) on batches of D_f with the rl target, one inner step.
Plain torch has every pass in one arithmetic; `erasediff` is the engine, whose bf16-autocast and tf32 choose by pass.
TF32 is emulated where there is none: inputs of convolutions and matrix products rounded to 10 bits, sums in fp32.
Without sets the weights and the samples are random.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from erasediff.shards import Dataset, Stream
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.bench.synthetic import RandomStream, random_model
from erasediff.trainer.bench.synthetic import labels_of as labels_of_random
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig
from erasediff.trainer.engine.arithmetic import tf32
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.methods._two_gradients import Descent
from erasediff.trainer.models.class_names import labels_of
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.model import Model
from erasediff.trainer.objectives.diffusion import DiffusionBatch, DiffusionObjective
from erasediff.trainer.ranks import collectives
from rows import Rows
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Tensors = dict[str, Tensor]
Results = list[tuple[float, Tensors | None]]
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


def arithmetics(device: torch.device) -> dict[str, tuple[torch.dtype, Callable[[], Any]]]:
    """By name, the reference's first: the type of the weights, and what is around the passes."""
    is_cuda = device.type == "cuda"
    coarse = {"TF32": lambda: tf32(True)} if is_cuda else {"TF32, emulated": EmulatedTF32}
    coarse |= {"bf16-autocast": lambda: torch.autocast(device.type, torch.bfloat16)}
    exact = {"fp64": (torch.float64, contextlib.nullcontext), "fp32": (torch.float32, lambda: tf32(False))}
    return exact | {name: (torch.float32, context) for name, context in coarse.items()}


def plain(
    module: nn.Module,
    theta: Tensors,
    batch: DiffusionBatch,
    xi: float,
    arithmetic: tuple[torch.dtype, Callable[[], Any]],
) -> tuple[float, Tensors]:
    """(g, ∇g) by whole-tensor autograd; ∇g on the CPU."""
    dtype, context = arithmetic
    nn.Module.to(module, dtype)
    noised = batch.noised
    told = {name: value.to(dtype) if value.is_floating_point() else value for name, value in noised.told.items()}

    def gradient(at: Tensors) -> tuple[float, Tensors]:
        module.load_state_dict(at, strict=False)
        with context():
            output = module(noised.x_t.to(dtype), noised.timesteps, **told, return_dict=False)[0].to(dtype)
            assert batch.target is not None
            loss = (batch.target.to(dtype) - output).square().mean()
            gradients = torch.autograd.grad(loss, [*module.parameters()])
        return loss.item(), dict(zip(at, gradients, strict=True))

    theta = {name: value.to(dtype) for name, value in theta.items()}
    loss_f, grad_f = gradient(theta)
    loss_phi, grad_phi = gradient({name: theta[name] - xi * grad_f[name].to(dtype) for name in theta})
    return loss_f - loss_phi, {name: (grad_f[name].double() - grad_phi[name].double()).cpu() for name in theta}


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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a pipeline folder; class-conditional, where there are sets")
    parser.add_argument("forget", nargs="?")
    parser.add_argument("remain", nargs="?")
    parser.add_argument("--null-class", type=int, help="of the model (default 10 where there are sets)")
    parser.add_argument("--image-size", type=int, help="of a latent model, in pixels (default: as it was trained)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--xi", type=float, nargs="+", default=[1e-3, 1e-2])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--reference", choices=("fp64", "fp32"), default="fp64", help="what all are compared with")
    options = parser.parse_args()
    if (options.forget is None) != (options.remain is None):
        parser.error("give both sets, or neither")
    return options


def made(options: argparse.Namespace, device: torch.device) -> tuple[Model, DiffusionObjective, Any]:
    """The model, its objective on D_f, and a stream of D_f."""
    config = ModelConfig(options.model, null_class=options.null_class, image_size=options.image_size)
    if options.forget is None:
        model = random_model(config, device)
        labels, others = labels_of_random(model)
        stream: Any = RandomStream(model, labels, options.batch_size)
    else:
        model = load_model(replace(config, null_class=10 if options.null_class is None else options.null_class))
        nn.Module.to(model.module, device)
        forget, others = Dataset.open(options.forget), labels_of(Dataset.open(options.remain))
        stream = Stream(forget, seed=0, batch_size=options.batch_size)
    method: Any = {"method": EraseDiffConfig(), "others": others}
    return model, DiffusionObjective(model, device, seed=0, label_drop=0.0, **method), stream


def main() -> None:
    options = parse()
    torch.manual_seed(0)
    device = collectives.set_up(EngineConfig(device=options.device))
    model, objective, stream = made(options, device)
    drawn = [objective.forget_batches(stream.batch(number))[0] for number in range(options.batches)]

    module = model.module
    theta = {name: value.detach().clone() for name, value in module.named_parameters()}

    def engine(precision: Any) -> ShardedModel:
        config = EngineConfig(device=options.device, precision=precision)
        return ShardedModel(copy.deepcopy(module), config, OptimizerConfig(), device, max_train_steps=1)

    exact, *others = [name for name in arithmetics(device) if name != "fp64" or options.reference == "fp64"]
    batches = objective.with_forget_targets(engine("fp32"), drawn)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    table = Rows(["ξ", "arithmetic", f"cosine of ∇g to {exact}'s, {len(batches)} batches", f"g over {exact}'s"], name)
    for xi in options.xi:

        def by_torch(name: str, xi: float = xi) -> Results:
            arithmetic = arithmetics(device)[name]
            return [plain(copy.deepcopy(module), theta, batch, xi, arithmetic) for batch in batches]

        expected = by_torch(exact)
        for name in others:
            table.add(f"{xi:g}", name, *compared(by_torch(name), expected))
        for precision in ("bf16-autocast", "tf32") if device.type == "cuda" else ("bf16-autocast",):
            for reading in ("first_order", "envelope"):
                sharded = engine(precision)
                results = [of_engine(sharded, batch, xi, reading) for batch in batches]
                table.add(f"{xi:g}", f"erasediff {precision}, {reading}", *compared(results, expected))


def compared(results: Results, expected: Results) -> tuple[str, str]:
    """The two cells."""
    pairs = [*zip(results, expected, strict=True)]
    cosines = [
        "–" if found is None or exact is None else f"{cosine(found, exact):.4f}" for (_, found), (_, exact) in pairs
    ]
    return ", ".join(cosines), ", ".join(f"{g / exact:.3f}" for (g, _), (exact, _) in pairs)


if __name__ == "__main__":
    main()
