"""Does a step hold what `erasediff plan` says it will?

    python benchmarks/memory.py                     # digits and middle: minutes
    python benchmarks/memory.py sd1 --give-back     # minutes, and 15 GB; on two ranks 20 GB
    python benchmarks/memory.py digits --ranks 2 --zero-stage 3
    python benchmarks/memory.py half --ranks 3 --give-back    # SD 1.x at half its width: 9 GB

`predicted` is what the plan adds up for a rank of this machine, without its reserve and without the parts that a case
does not make (autoencoder, text encoder, pictures). `measured` is the peak of a rank's PSS over steps of the real
engine, random weights and batches, from the making of the model on, minus its PSS once everything is imported, the
ranks have met and a pass of a tiny layer has run; of several ranks, the mean. PSS is read every 20 ms, or as often as
reading it allows. The C library keeps what is freed, as in every run on a CPU; with --give-back it gives it back at
once, and a peak is of what is held.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from full_size import architecture
from rows import Rows

COLUMNS = (
    *("case", "parameters", "ranks", "ZeRO", "samples a rank", "weights, θ, moments MB", "gradients, buckets MB"),
    *("activations MB", "predicted MB", "measured MB", "predicted / measured"),
)
# a rank on a CPU keeps what is freed for later (trainer/ranks/freed_memory.py), so that its PSS is also of the past
RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
# parts of a plan that a case has not
NOT_MADE = ("frozen parts", "reserve")


@dataclass(frozen=True)
class Case:
    pipeline: str
    unet: dict[str, Any]
    samples_per_rank: int
    options: tuple[str, ...] = ()

    def words(self, folder: Path, num_ranks: int, zero_stage: int) -> list[str]:
        """Of `erasediff plan`."""
        return [
            *("--model.path", str(folder), "--gpus", str(num_ranks), "--gpu-type", "cpu", "--stored-latents"),
            *("--engine.device", "cpu", "--engine.zero-stage", str(zero_stage)),
            *("--train.train-batch-size", str(num_ranks * self.samples_per_rank)),
            *("--train.dataloader-num-workers", "0", "--train.descent-every", "0"),
            *("--method.barrier", "value", *self.options),
        ]


def case_of(name: str) -> Case:
    digits = {
        "_class_name": "UNet2DModel",
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
    }
    latents = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4}
    return {
        "digits": Case("DDPMPipeline", digits, 512),
        "middle": Case("StableDiffusionPipeline", latents | architecture("sd1", 96) | {"sample_size": 32}, 4),
        "half": Case(
            "StableDiffusionPipeline",
            latents | architecture("sd1", 160) | {"sample_size": 32},
            1,
            ("--optimizer.name", "sgd"),
        ),
        # AdamW's moments would take 7 GB more
        "sd1": Case(
            "StableDiffusionPipeline",
            latents | architecture("sd1", 320) | {"sample_size": 32},
            1,
            ("--optimizer.name", "sgd"),
        ),
    }[name]


def write_configuration(case: Case, folder: Path) -> None:
    """A pipeline's folder without weights."""
    scheduler = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
    configs: dict[str, dict[str, Any]] = {"unet": case.unet, "scheduler": {"_class_name": "DDIMScheduler"} | scheduler}
    if case.pipeline == "StableDiffusionPipeline":
        configs["vae"] = {
            "_class_name": "AutoencoderKL",
            "latent_channels": 4,
            "block_out_channels": (8, 8, 8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "norm_num_groups": 8,
            "sample_size": 256,
        }
        configs["text_encoder"] = {
            "model_type": "clip_text_model",
            "hidden_size": case.unet["cross_attention_dim"],
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 8,
            "max_position_embeddings": 77,
            "vocab_size": 49408,
        }
    classes = {part: ("diffusers", config.get("_class_name", "")) for part, config in configs.items()}
    if "text_encoder" in configs:
        classes["text_encoder"] = ("transformers", "CLIPTextModel")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": case.pipeline} | classes))
    for part, config in configs.items():
        (folder / part).mkdir()
        (folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")).write_text(
            json.dumps(config)
        )


def rank_main(words: list[str], output: Path) -> None:
    """One rank: meets the others, says what it holds by then, and runs its steps."""
    import torch
    from erasediff.launch.plan import Plan
    from erasediff.trainer.engine.sharded_model import ShardedModel
    from erasediff.trainer.models.families import outline_model
    from erasediff.trainer.ranks import collectives
    from torch import Tensor

    @dataclass(frozen=True)
    class Batch:
        x_t: Tensor
        t: Tensor
        told: dict[str, Tensor]
        target: Tensor
        weights: Tensor

    config = Plan.read(words, prog="plan").config
    device = collectives.set_up(config.engine)
    outline: Any = outline_model(config.model)
    num_samples = config.train.train_batch_size // collectives.world_size()
    torch.manual_seed(collectives.rank())

    def filled(value: Tensor) -> Tensor:
        if value.is_floating_point():
            return torch.randn(value.shape)
        return torch.zeros(value.shape, dtype=value.dtype)

    def batch() -> Batch:
        x_t, t, told = outline.blank_pass(num_samples)
        given = {name: filled(value) for name, value in told.items()}
        return Batch(filled(x_t), filled(t), given, filled(x_t), torch.ones(num_samples))

    class Losses:
        @torch.no_grad()
        def with_forget_targets(self, model: ShardedModel, batches: list[Batch]) -> list[Batch]:
            return [Batch(b.x_t, b.t, b.told, predict(model, b), b.weights) for b in batches]

        def with_own_targets(self, batches: list[Batch]) -> list[Batch]:
            return batches

        def loss(self, model: ShardedModel, batch: Batch) -> Tensor:
            return (predict(model, batch) - batch.target).square().flatten(1).mean(1)

    def predict(model: ShardedModel, b: Batch) -> Tensor:
        return outline.predict(model.predict, b.x_t, b.t, b.told, model.working_dtype)

    def run_steps(module: Any, steps: int, batches: list[Batch]) -> None:
        model = ShardedModel(module, config.engine, config.optimizer, device, max_train_steps=steps)
        losses: Any = Losses()
        method = config.method.make(losses)
        for step in range(steps):
            update: Any = method.step(model, batches[:1], batches[1:], step, diagnose=False)
            model.step(update.delta, step, update.skip)
            del update

    tiny = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.GroupNorm(4, 8), torch.nn.SiLU())
    tiny(torch.randn(2, 4, 8, 8)).sum().backward()
    if config.engine.zero_stage == 3:
        import deepspeed  # noqa: F401
    collectives.barrier()
    kind: Any = type(outline.module)
    output.with_suffix(f".{collectives.rank()}").write_text(str(os.getpid()))
    time.sleep(1.0)
    module = kind.from_config(outline.module.config).eval()
    # moments are made in the first step; without them it is as the others are
    run_steps(module, 1 if config.optimizer.name == "sgd" else 2, [batch(), batch()])
    collectives.end_process(0)


def pss_bytes(process: int) -> int:
    """0 where it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        return sum(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return 0


def measure(words: list[str], num_ranks: int, folder: Path, *, gives_back: bool) -> float:
    """Bytes of a rank at its peak, without what it held before: the mean over ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output = folder / "ready"
    threads = max(1, (os.cpu_count() or 1) // num_ranks)
    command = [sys.executable, __file__, "--rank-output", str(output), "--", *words]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": str(threads)}
            | {"PYTHONWARNINGS": "ignore"}
            | (RETURNED_AT_ONCE if gives_back else {}),
        )
        for rank in range(num_ranks)
    ]
    before, most = [0] * num_ranks, [0] * num_ranks
    while any(process.poll() is None for process in ranks):
        begun = time.perf_counter()
        for rank, process in enumerate(ranks):
            if output.with_suffix(f".{rank}").exists():
                found = pss_bytes(process.pid)
                before[rank] = before[rank] or found
                most[rank] = max(most[rank], found)
        # reading stops the process for a moment: not more than a fifth of the time
        time.sleep(max(0.02, 4 * (time.perf_counter() - begun)))
    if any(process.returncode for process in ranks):
        sys.exit(f"a rank left with {[process.returncode for process in ranks]}")
    return sum(most) / num_ranks - sum(before) / num_ranks


def predict(words: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "erasediff.launch", "plan", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def run(name: str, num_ranks: int, zero_stage: int, rows: Rows, *, gives_back: bool) -> None:
    case = case_of(name)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "model"
        folder.mkdir()
        write_configuration(case, folder)
        words = case.words(folder, num_ranks, zero_stage)
        plan = predict(words)
        measured = measure(words, num_ranks, Path(made), gives_back=gives_back)
    parts = {part: size for part, size in plan["as_set"]["memory"].items() if part not in NOT_MADE}
    predicted = sum(parts.values())

    def megabytes(*names: str) -> str:
        return f"{sum(parts.get(part, 0) for part in names) / 1e6:,.0f}"

    rows.add(
        name,
        f"{plan['num_parameters'] / 1e6:,.1f} M",
        num_ranks,
        zero_stage,
        case.samples_per_rank,
        megabytes("weights", "master θ", "moments"),
        megabytes("gradients", "buckets", "DeepSpeed's buffers"),
        megabytes("activations", "casts"),
        f"{predicted / 1e6:,.0f}",
        f"{measured / 1e6:,.0f}",
        f"{predicted / measured:.2f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["digits", "middle"])
    parser.add_argument("--ranks", type=int, nargs="+", help="default 1, 2 and 3; of sd1 1")
    parser.add_argument("--zero-stage", type=int, nargs="+", default=[2])
    parser.add_argument("--give-back", action="store_true", help="have the C library give back at once what is freed")
    parser.add_argument("--rank-output", type=Path)
    options = parser.parse_args()
    if options.rank_output is not None:
        rank_main(options.cases, options.rank_output)
    rows = Rows(COLUMNS)
    for name in options.cases:
        for num_ranks in options.ranks or ([1] if name == "sd1" else [1, 2, 3]):
            for zero_stage in options.zero_stage:
                run(name, num_ranks, zero_stage, rows, gives_back=options.give_back)


if __name__ == "__main__":
    main()
