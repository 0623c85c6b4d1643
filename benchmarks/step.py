"""What one outer iteration costs, by reading of the algorithm, beside the plain training step it is made of.

    python benchmarks/step.py                                  # the digits' model on this machine's device
    python benchmarks/step.py --model ddpm-cifar10 --batch-size 128 --precision bf16-autocast

One process. `plain` is one step of ordinary torch training at the same batch, precision and optimizer (forward,
backward, fused AdamW). `ratio` is an iteration over n · plain's forward and backward + m · its forward + one optimizer
step, with n gradients and m forward passes counted from the algorithm, each in the arithmetic it runs in: under
bf16-autocast some run in fp32 (docs/methods.md), and `fp32 price` is that plain iteration over one all in bf16. The
update of each reading is compared with whole-tensor autograd first; where one is off, nothing is printed and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from erasediff.trainer import EraseDiffConfig, FinetuneConfig
from erasediff.trainer.config import EngineConfig, MethodConfig, OptimizerConfig
from erasediff.trainer.config.cost import Cost
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.objectives.diffusion import DiffusionBatch
from erasediff.trainer.objectives.targets import Noised
from erasediff.trainer.ranks import collectives
from rows import Rows
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
MODELS = {
    "digits": {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "add_attention": False,
        "num_class_embeds": 11,
    },
    # the paper's: 128 channels, [1, 2, 2, 2], attention at 16 × 16
    "ddpm-cifar10": {
        "sample_size": 32,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "attention_head_dim": None,
        "num_class_embeds": 11,
    },
}
READINGS: dict[str, MethodConfig] = {
    "finetune": FinetuneConfig(),
    "envelope, norm (K = 0)": EraseDiffConfig(lambda_cap=None),
    "value, K = 1": EraseDiffConfig(barrier="value", lambda_cap=None),
    "first_order, K = 1": EraseDiffConfig(gradient_of_g="first_order", lambda_cap=None, xi=0.1),
}


class GivenTargets:
    """The objective's two calls on batches that are drawn already; the rl target costs its forward pass."""

    def with_own_targets(self, batches: list[DiffusionBatch]) -> list[DiffusionBatch]:
        return batches

    def with_forget_targets(self, model: ShardedModel, batches: list[DiffusionBatch]) -> list[DiffusionBatch]:
        with torch.no_grad():
            for batch in batches:
                self._output(model.predict, batch, model.working_dtype)
        return batches

    def loss(self, model: ShardedModel, batch: DiffusionBatch) -> Tensor:
        return self.loss_of(model.predict, batch, model.working_dtype)

    @staticmethod
    def _output(forward: Callable[..., tuple[Tensor]], batch: DiffusionBatch, dtype: torch.dtype) -> Tensor:
        x_t = batch.noised.x_t.to(dtype)
        return forward(x_t, batch.noised.timesteps, **batch.noised.told, return_dict=False)[0].float()

    @classmethod
    def loss_of(cls, forward: Callable[..., tuple[Tensor]], batch: DiffusionBatch, dtype: torch.dtype) -> Tensor:
        assert batch.target is not None
        return (cls._output(forward, batch, dtype) - batch.target).square().flatten(1).mean(1)


def make_module(name: str) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(**MODELS[name])


def make_batch(module: UNet2DModel, size: int, seed: int, device: torch.device) -> DiffusionBatch:
    generator = torch.Generator().manual_seed(seed)
    shape = (size, module.config["in_channels"], module.config["sample_size"], module.config["sample_size"])
    steps = DDPMScheduler().config["num_train_timesteps"]
    x_t = torch.randn(shape, generator=generator).to(device)
    timesteps = torch.randint(steps, (size,), generator=generator).to(device)
    labels = torch.randint(10, (size,), generator=generator)
    target = torch.randn(shape, generator=generator).to(device)
    # the loss reads neither x_0 nor ε
    noised = Noised(x_t, x_t, x_t, timesteps, labels.tolist(), {"class_labels": labels.to(device)})
    return DiffusionBatch(noised, target, torch.ones(size, device=device))


def error_of(config: MethodConfig, device: torch.device) -> float:
    """‖δ - reference‖/‖reference‖ on the digits' model in fp32, the reference being autograd over whole tensors."""
    module = make_module("digits")
    nn.Module.to(module, device)
    remain, forget = (make_batch(module, 4, seed, device) for seed in (1, 2))
    theta = {name: value.detach().clone() for name, value in module.named_parameters()}

    def gradient(at: dict[str, Tensor], batch: DiffusionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        module.load_state_dict(at)
        loss = GivenTargets.loss_of(module, batch, torch.float32).mean()
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
    model = ShardedModel(module, EngineConfig(device=kind(device)), OptimizerConfig(), device, max_train_steps=1)
    method = config.make(GivenTargets())
    delta = model.gather(method.step(model, [forget], [remain], 0, diagnose=False).delta)
    difference = {name: delta[name] - expected[name].cpu() for name in delta}
    return float((dot(difference, difference) / dot(expected, expected)).sqrt())


def kind(device: torch.device):
    return "cuda" if device.type == "cuda" else "cpu"


def seconds_of(run: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Of each run, after three that do not count."""
    seconds = []
    for i in range(repeats + 3):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i >= 3:
            seconds.append(time.perf_counter() - start)
    return seconds


def plain_parts(options: argparse.Namespace, precision: str, device: torch.device) -> dict[str, list[float]]:
    """Forward and backward, forward alone, and the optimizer's step, in plain torch."""
    module = make_module(options.model)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    nn.Module.to(module, device, dtype)
    batch = make_batch(make_module(options.model), options.batch_size, 1, device)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def forward() -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16-autocast"):
            return GivenTargets.loss_of(module, batch, dtype).mean()

    def without_gradient() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        optimizer.zero_grad()
        forward().backward()

    both()
    return {
        "forward + backward": seconds_of(both, device, options.repeats),
        "forward": seconds_of(without_gradient, device, options.repeats),
        "optimizer": seconds_of(optimizer.step, device, options.repeats),
    }


def iteration(config: MethodConfig, options: argparse.Namespace, device: torch.device) -> Callable[[], None]:
    module = make_module(options.model)
    forget, remain = ([make_batch(module, options.batch_size, seed, device)] for seed in (1, 2))
    engine = EngineConfig(device=kind(device), precision=options.precision)
    model = ShardedModel(module, engine, OptimizerConfig(), device, max_train_steps=1000)
    method = config.make(GivenTargets())

    def run() -> None:
        update = method.step(model, forget, remain, 0, diagnose=False)
        model.step(update.delta, 0, update.skip)

    return run


COLUMNS = ["op", "provider", "shape", "dtype", "median ms", "p20", "p80", "ratio", "fp32 price", "peak MB"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="digits")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", choices=("fp32", "bf16-autocast", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    device = collectives.set_up(EngineConfig())
    for name, config in READINGS.items():
        error = error_of(config, device)
        if not error <= 1e-5:
            print(f"{name}: δ is off by {error:.1e} of its norm; no figure is printed", file=sys.stderr)
            return 1
    table = Rows(COLUMNS, torch.cuda.get_device_name() if device.type == "cuda" else None)

    def row(op: str, provider: str, precision: str, seconds: list[float], ratio: str = "–", price: str = "–") -> None:
        p20, *_, p80 = statistics.quantiles(seconds, n=5)
        median = statistics.median(seconds)
        peak = f"{torch.cuda.max_memory_allocated() / 1e6:.0f}" if device.type == "cuda" else "–"
        figures = [f"{value * 1e3:.1f}" for value in (median, p20, p80)]
        table.add(op, provider, f"{options.model} × {options.batch_size}", precision, *figures, ratio, price, peak)

    medians: dict[str, list[float]] = {}
    autocasts = options.precision == "bf16-autocast"
    for precision in [options.precision, *(["fp32"] if autocasts else [])]:
        parts = plain_parts(options, precision, device)
        for name, seconds in parts.items():
            row(name, "plain torch", precision, seconds)
        medians[precision] = [statistics.median(seconds) for seconds in parts.values()]

    def plain_seconds(counted: Cost) -> float:
        both, forward, optimizer = medians[options.precision]
        exact_both, exact_forward, _ = medians.get("fp32", medians[options.precision])
        return (
            (counted.gradients - counted.exact_gradients) * both
            + counted.exact_gradients * exact_both
            + (counted.forwards - counted.exact_forwards) * forward
            + counted.exact_forwards * exact_forward
            + optimizer
        )

    for name, config in READINGS.items():
        is_refused = options.precision == "bf16" and isinstance(config, EraseDiffConfig) and config.needs_inner_loop
        if is_refused:
            continue
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(iteration(config, options, device), device, options.repeats)
        counted = config.cost(options.precision)
        floor = plain_seconds(counted)
        price = f"{floor / plain_seconds(config.cost('fp32')):.3f}"
        row(name, "erasediff", options.precision, seconds, f"{statistics.median(seconds) / floor:.3f}", price)
    return 0


if __name__ == "__main__":
    sys.exit(main())
