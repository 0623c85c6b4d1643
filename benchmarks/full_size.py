"""Do the published architectures of Stable Diffusion fit, and what does an outer iteration of them hold in memory?

    python benchmarks/full_size.py                       # every case, minutes each; needs 22 GB
    python benchmarks/full_size.py one-rank --width 80   # a case, on a narrower model

Random weights, one sample a rank, on CPU. The iteration is Algorithm 1's, by the engine: the rl target, both
gradients, K = 1 where the reading has an inner loop, λ_t, δ, the optimizer's step, and a forward pass at the new θ.
`peak GB` is the sum of the PSS of all its processes, making the model and DeepSpeed's start included, looked at twice a
second. It ends with status 1 where a loss is not finite or θ has not moved.

Few CPUs have bf16 arithmetic, and torch's loops in its place take a hundred times as long: with bf16 weights,
convolutions and linear layers compute in fp32, one layer at a time, and round. What is stored is bf16.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# rank processes import torch, this one need not
CASES = ("one-rank", "two-ranks-zero2", "two-ranks-zero3", "xl-xattn")
COLUMNS = ("case", "parameters", "trained", "ranks", "ZeRO", "dtype", "reading", "latents", "iteration s", "peak GB")


@dataclass(frozen=True)
class Case:
    num_ranks: int
    zero_stage: int
    precision: str
    barrier: str
    latent_size: int = 32
    layers: tuple[str, ...] = ("full",)
    architecture: str = "sd1"
    engine: dict[str, Any] = field(default_factory=lambda: {"reduce_bucket_size": 50_000_000})


def case_of(name: str) -> Case:
    return {
        "one-rank": Case(1, 2, "fp32", "value"),
        "two-ranks-zero2": Case(2, 2, "bf16", "norm"),
        "two-ranks-zero3": Case(2, 3, "bf16", "norm"),
        "xl-xattn": Case(1, 2, "bf16", "norm", latent_size=16, layers=("xattn",), architecture="sdxl"),
    }[name]


def architecture(name: str, width: int) -> dict[str, Any]:
    """The UNet2DConditionModel's config as published; `width` 320 is the original's."""
    if name == "sd1":
        return {
            "sample_size": 64,
            "block_out_channels": (width, 2 * width, 4 * width, 4 * width),
            "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        }
    return {
        "sample_size": 128,
        "block_out_channels": (width, 2 * width, 4 * width),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (width // 64, width // 32, width // 16),
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    }


def rank_main(name: str, width: int, output: Path) -> None:
    """One rank of a case; rank 0 writes what came of it."""
    import torch
    from diffusers import UNet2DConditionModel
    from erasediff.trainer import EraseDiffConfig
    from erasediff.trainer.config import EngineConfig, OptimizerConfig
    from erasediff.trainer.engine.sharded_model import ShardedModel
    from erasediff.trainer.models.layers import train_only
    from erasediff.trainer.ranks import collectives
    from torch import Tensor, nn

    @dataclass(frozen=True)
    class Batch:
        x_t: Tensor
        t: Tensor
        told: Tensor
        weights: Tensor
        target: Tensor

    class InFp32(torch.autograd.Function):
        """A layer's function of bf16 tensors; nothing in fp32 stays for the backward pass."""

        @staticmethod
        def forward(ctx: Any, function: Any, *given: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            ctx.function = function
            ctx.save_for_backward(*given)
            return function(*(value.float() for value in given)).to(given[0].dtype)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            needed = ctx.needs_input_grad[1:]
            given = [
                value.detach().float().requires_grad_(need)
                for value, need in zip(ctx.saved_tensors, needed, strict=True)
            ]
            with torch.enable_grad():
                output = ctx.function(*given)
            wanted = [value for value in given if value.requires_grad]
            found = iter(torch.autograd.grad(output, wanted, gradient.float()))
            return None, *(next(found).bfloat16() if need else None for need in needed)

    def compute_in_fp32(layer: Any, *, convolves: bool) -> None:
        functions: Any = nn.functional
        function = functions.linear
        if convolves:
            function = functools.partial(functions.conv2d, stride=layer.stride, padding=layer.padding)

        def forward(x: Tensor, *_: Any) -> Tensor:
            return InFp32.apply(function, x, layer.weight, *([] if layer.bias is None else [layer.bias]))  # pyright: ignore

        layer.forward = forward

    case = case_of(name)
    engine = EngineConfig(
        device="cpu",
        zero_stage=case.zero_stage,  # pyright: ignore[reportArgumentType]
        precision=case.precision,  # pyright: ignore[reportArgumentType]
        **case.engine,
    )
    device = collectives.set_up(engine)
    rank = collectives.rank()
    torch.manual_seed(0)
    config: dict[str, Any] = architecture(case.architecture, width)
    unet: Any = UNet2DConditionModel(**config)
    for layer in unet.modules() if case.precision == "bf16" else ():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            compute_in_fp32(layer, convolves=isinstance(layer, nn.Conv2d))
    train_only(unet, case.layers, "layers")
    num_parameters = sum(value.numel() for value in unet.parameters())
    num_trained = sum(value.numel() for value in unet.parameters() if value.requires_grad)
    model = ShardedModel(unet, engine, OptimizerConfig(name="sgd", learning_rate=1e-3), device, max_train_steps=1)
    beside = {}
    if case.architecture == "sdxl":
        time_ids = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]])
        beside = {
            "added_cond_kwargs": {"text_embeds": torch.randn(1, 1280).bfloat16(), "time_ids": time_ids.bfloat16()}
        }

    def batch(seed: int) -> Batch:
        generator = torch.Generator().manual_seed(10 * seed + rank)
        shape = (1, 4, case.latent_size, case.latent_size)
        told = torch.randn(1, 77, config["cross_attention_dim"], generator=generator)
        x_t, target = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        return Batch(x_t, torch.randint(1000, (1,), generator=generator), told, torch.ones(1), target)

    def output_of(model: ShardedModel, batch: Batch, told: Tensor) -> Tensor:
        x_t, told = batch.x_t.to(model.working_dtype), told.to(model.working_dtype)
        return model.predict(x_t, batch.t, told, return_dict=False, **beside)[0].float()

    class Losses:
        def with_own_targets(self, batches: list[Batch]) -> list[Batch]:
            return batches

        @torch.no_grad()
        def with_forget_targets(self, model: ShardedModel, batches: list[Batch]) -> list[Batch]:
            return [Batch(b.x_t, b.t, b.told, b.weights, output_of(model, b, b.told.flip(1))) for b in batches]

        def loss(self, model: ShardedModel, batch: Batch) -> Tensor:
            return (output_of(model, batch, batch.told) - batch.target).square().flatten(1).mean(1)

    losses: Any = Losses()
    method = EraseDiffConfig(barrier=case.barrier, lambda_cap=None).make(losses)  # pyright: ignore[reportArgumentType]
    forget, remain = [batch(1)], [batch(2)]
    where = model.theta.data.abs().argmax()
    before = model.theta.data[where].item()
    begun = time.perf_counter()
    update = method.step(model, forget, remain, 0, diagnose=False)
    model.step(update.delta, 0, update.skip)
    packet = update.packet.to_host().read()
    moved = update.delta.data.abs().max().item() > 0 and model.theta.data[where].item() != before
    del update
    after = model.loss(losses.loss, remain).item()
    seconds = time.perf_counter() - begun
    if rank == 0:
        result = {
            "parameters": num_parameters,
            "trained": num_trained,
            "seconds": seconds,
            "moved": moved,
            "values": [packet[key] for key in ("loss_r", "loss_f", "lambda_t")] + [after],
        }
        output.write_text(json.dumps(result))
    collectives.end_process(0)


def pss_bytes(processes: list[int]) -> int:
    """Of what is still there of them, shared pages divided among those that share them."""
    total = 0
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += sum(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total


def run(name: str, width: int) -> dict[str, Any]:
    """Starts a case's ranks and watches their memory; what rank 0 wrote, with the peak and where it was."""
    case = case_of(name)
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        output = Path(folder) / "result.json"
        threads = max(1, (os.cpu_count() or 1) // case.num_ranks)
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, name, "--width", str(width), "--rank-output", str(output)],
                env=os.environ
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case.num_ranks)}
                | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": str(threads)}
                | {"PYTHONWARNINGS": "ignore"},
            )
            for rank in range(case.num_ranks)
        ]
        peak, begun = 0, time.perf_counter()
        trace: list[tuple[float, float]] = []
        while any(process.poll() is None for process in ranks):
            found = pss_bytes([os.getpid(), *(process.pid for process in ranks)])
            trace.append((round(time.perf_counter() - begun, 1), round(found / 1e9, 2)))
            peak = max(peak, found)
            time.sleep(0.5)
        if "FULL_SIZE_TRACE" in os.environ:
            print(trace, file=sys.stderr)
        if any(process.returncode for process in ranks) or not output.exists():
            sys.exit(f"{name}: a rank left with {[process.returncode for process in ranks]}")
        result = json.loads(output.read_text())
    if not result["moved"] or not all(map(math.isfinite, result["values"])):
        sys.exit(f"{name}: {result}")
    return result | {"peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cases", nargs="*", default=CASES, choices=[*CASES, CASES], metavar="CASE", help=", ".join(CASES)
    )
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--rank-output", type=Path)
    options = parser.parse_args()
    if options.rank_output is not None:
        rank_main(options.cases[0], options.width, options.rank_output)
    from rows import Rows

    rows = Rows(COLUMNS)
    for name in options.cases:
        case, found = case_of(name), run(name, options.width)
        rows.add(
            f"{case.architecture}, {name}",
            f"{found['parameters'] / 1e6:,.1f} M",
            f"{found['trained'] / 1e6:,.1f} M ({', '.join(case.layers)})",
            case.num_ranks,
            case.zero_stage,
            case.precision,
            f"envelope, {case.barrier}",
            f"{case.latent_size} × {case.latent_size}",
            f"{found['seconds']:.1f}",
            f"{found['peak'] / 1e9:.2f}",
        )


if __name__ == "__main__":
    main()
