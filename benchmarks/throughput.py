"""What an iteration costs beside the plain training steps it is made of, the research code's, and FSDP2.

    python benchmarks/throughput.py                                        # the digits' model, here
    python benchmarks/throughput.py --model sd1 --latent-size 32 --batch-size 2 --optimizer sgd --rounds 3 --repeats 1
    python benchmarks/throughput.py --model sd1 --batch-size 16 --precision bf16-autocast --keep
    torchrun --nproc-per-node 2 benchmarks/throughput.py --providers erasediff fsdp2 --zero-stage 3

Random weights, random samples. `erasediff` is an iteration of a scrub as `erasediff bench` takes it, its samples noised
ahead of it; `plain` one timed loop of exactly the passes that the algorithm asks for, n gradients and m forward passes,
and one optimizer step, in plain torch; `ratio` is an iteration over that. Both, and other peers (peers.py), have the
same batch, precision, attention, checkpointing and compile, and take turns: in each round every provider runs
`--repeats` times after one that does not count. Under bf16-autocast passes that must be exact run in fp32 for both;
under bf16 the peers have no fp32 master weights, which we have, and no ratio is given.

Each round makes a provider anew, since two large models do not fit; with --keep all stay, and `peak GB` is left out.
The update of each reading is compared with whole-tensor autograd first (updates.py); where one is off, nothing is
printed and the exit status is 1. Rows: build/benchmarks/throughput.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from erasediff.trainer import EraseDiffConfig, FinetuneConfig
from erasediff.trainer.bench import memory
from erasediff.trainer.bench.flops import count, peak
from erasediff.trainer.bench.iteration import Iteration
from erasediff.trainer.bench.split import CountedBytes
from erasediff.trainer.config import BenchConfig, EngineConfig, MethodConfig, ModelConfig, OptimizerConfig, TrainConfig
from erasediff.trainer.config.cost import Cost
from erasediff.trainer.models.families import outline_model
from erasediff.trainer.ranks import collectives
from erasediff.trainer.ranks.freed_memory import give_back
from erasediff.trainer.run.peak import peak_bytes, reset_peak
from peers import Accelerated, FullyShard, Plain, Released
from pipelines import UNETS, write_pipeline
from rows import Rows
from updates import error_of

READINGS: dict[str, MethodConfig] = {
    "finetune": FinetuneConfig(),
    "K = 0": EraseDiffConfig(lambda_cap=None),
    "value, K = 1": EraseDiffConfig(barrier="value", lambda_cap=None),
    "first_order, K = 1": EraseDiffConfig(gradient_of_g="first_order", lambda_cap=None, xi=0.1),
}
PROVIDERS = ["erasediff", "plain", "released"]
PEERS = {"plain": Plain, "accelerate": Accelerated, "released": Released, "fsdp2": FullyShard}
COLUMNS = ["op", "provider", "shape", "dtype", "ranks", "median ms", "p20", "p80", "ratio", "images/s a rank", "MFU"]
COLUMNS += ["peak GB", "sent MB", "engine"]


class Timed:
    """A provider, its times and what else was seen of it."""

    def __init__(self, make: partial[Any], device: torch.device):
        self._make, self._device = make, device
        self.seconds: list[float] = []
        self.peak_bytes = self.num_bytes = 0
        self.status = ""
        self.does_our_passes = make.func is not Released
        self._kept: Any = None

    def run(self, repeats: int, *, keep: bool, is_last: bool) -> None:
        if self.status:
            return
        try:
            self._run(repeats, keep=keep, is_last=is_last)
        except (RuntimeError, MemoryError) as error:
            if not memory.is_short(error):
                raise
            self.status, self._kept = "out of memory", None
        self.status = next((status for status in collectives.gather(self.status) if status), "")
        give_back(self._device)

    def _run(self, repeats: int, *, keep: bool, is_last: bool) -> None:
        at_work = self._kept or self._make()
        at_work.step()
        reset_peak(self._device)
        self.seconds += self._times(at_work.step, repeats)
        self.peak_bytes = max(self.peak_bytes, peak_bytes(self._device))
        if is_last:  # nothing is compiled any more, which a dispatch mode would keep from it
            with CountedBytes() as counted:
                at_work.step()
            self.num_bytes = counted.num_bytes
        if keep:
            self._kept = at_work
        elif isinstance(at_work, Iteration):
            at_work.close()

    def _times(self, step: Callable[[], None], repeats: int) -> list[float]:
        """Of each iteration, from an idle device to an idle device."""
        times = []
        for _ in range(repeats):
            self._wait()
            begun = time.perf_counter()
            step()
            self._wait()
            times.append(time.perf_counter() - begun)
        return times

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def close(self) -> None:
        if isinstance(self._kept, Iteration):
            self._kept.close()
        self._kept = None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=UNETS, default="digits")
    parser.add_argument("--width", type=int, help="of a latent model's first resolution (default 320, as published)")
    parser.add_argument("--latent-size", type=int, help="of a latent model (default: as published)")
    parser.add_argument("--batch-size", type=int, default=64, help="of a loss, over all ranks (default 64)")
    parser.add_argument("--forward-batch-size", type=int, help="samples of a forward pass (default: all)")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16-autocast", "bf16"), default="fp32")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw", help="of all (default adamw)")
    parser.add_argument("--zero-stage", type=int, choices=(1, 2, 3), default=2)
    parser.add_argument("--attention", choices=("native", "xformers", "flash"), default="native")
    parser.add_argument("--activation-checkpointing", choices=("off", "all"), default="off")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--readings", nargs="+", choices=READINGS, default=[*READINGS][1:])
    parser.add_argument("--providers", nargs="+", choices=("erasediff", *PEERS), default=PROVIDERS)
    parser.add_argument("--rounds", type=int, default=5, help="turns of all providers (default 5)")
    parser.add_argument("--repeats", type=int, default=4, help="timed iterations in a turn (default 4)")
    parser.add_argument("--keep", action="store_true", help="make each provider once and keep all of them in memory")
    parser.add_argument("--rows", type=Path, help="the .jsonl to add to")
    return parser.parse_args()


def main() -> int:
    options = parse()
    engine = EngineConfig(
        device="cuda" if torch.cuda.is_available() else "cpu",
        zero_stage=options.zero_stage,
        precision=options.precision,
        attention=options.attention,
        activation_checkpointing=options.activation_checkpointing,
        compile=options.compile,
        channels_last=options.channels_last,
        forward_batch_size=options.forward_batch_size,
    )
    device = collectives.set_up(engine)
    memory.bound_alike(device)
    for name in options.readings:
        error = collectives.agree(error_of(READINGS[name], device, options.zero_stage))
        if not error <= 1e-5:
            print(f"{name}: δ is off by {error:.1e} of its norm; no figure is printed", file=sys.stderr)
            return 1
    with tempfile.TemporaryDirectory() as folder:
        path = str(write_pipeline(options.model, Path(folder), width=options.width))
        run(options, engine, device, path)
    if collectives.world_size() > 1:
        collectives.end_process(0)
    return 0


def run(options: argparse.Namespace, engine: EngineConfig, device: torch.device, path: str) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    table = Rows(COLUMNS, name, options.rows) if collectives.is_main() else None
    for reading in options.readings:
        method = READINGS[reading]
        if options.precision == "bf16" and isinstance(method, EraseDiffConfig) and method.needs_inner_loop:
            continue  # refused
        providers = providers_of(options, engine, device, path, reading)
        for number in range(1, options.rounds + 1):
            for timed in providers.values():
                timed.run(options.repeats, keep=options.keep, is_last=number == options.rounds)
        for provider, timed in providers.items():
            timed.close()
            side, *cells = cells_of(options, engine, path, name, reading, timed, providers.get("plain"))
            width = "" if options.width is None else f" ({options.width})"
            shape = f"{options.model}{width} {side}² × {options.batch_size}"
            if table is not None:
                table.add(reading, provider, shape, options.precision, *cells)


def model_of(options: argparse.Namespace, path: str) -> ModelConfig:
    return ModelConfig(path, image_size=None if options.latent_size is None else 8 * options.latent_size)


def providers_of(
    options: argparse.Namespace, engine: EngineConfig, device: torch.device, path: str, reading: str
) -> dict[str, Timed]:
    method, model = READINGS[reading], model_of(options, path)
    train = TrainConfig(train_batch_size=options.batch_size)
    optimizer = OptimizerConfig(name=options.optimizer)
    settings = BenchConfig(model=model, method=method, optimizer=optimizer, train=train, engine=engine)
    size = -(-options.batch_size // collectives.world_size())
    peer = (path, method.cost(options.precision), engine, size, device, model.image_size, options.optimizer)
    found: dict[str, Timed] = {}
    for provider in options.providers:
        make = partial(PEERS[provider], *peer) if provider in PEERS else partial(Iteration, settings, device)
        found[provider] = Timed(make, device)
        found[provider].status = why_not(provider, options, method.cost(options.precision))
    return found


def why_not(provider: str, options: argparse.Namespace, cost: Cost) -> str:
    """Empty where the provider can do it."""
    has_ranks = collectives.world_size() > 1
    if provider == "released" and (has_ranks or options.forward_batch_size):
        return "left out: it has one process and no micro-batches"
    if provider != "accelerate":
        return ""
    if find_spec("accelerate") is None:
        return "left out: accelerate is not installed"
    if has_ranks or cost.exact_gradients or cost.exact_forwards:
        return "left out: it has one process and one precision"
    return ""


def cells_of(
    options: argparse.Namespace,
    engine: EngineConfig,
    path: str,
    device: str | None,
    reading: str,
    timed: Timed,
    plain: Timed | None,
) -> list[object]:
    """The latents' side, and the row's cells from the ranks on."""
    method, num_ranks = READINGS[reading], collectives.world_size()
    outline = outline_model(model_of(options, path))
    start = [outline.latent_shape[-1], num_ranks]
    if timed.status:
        return [*start, timed.status]
    size = -(-options.batch_size // num_ranks)
    several = len(timed.seconds) > 1
    deciles = statistics.quantiles(timed.seconds, n=10, method="inclusive") if several else timed.seconds * 9
    low, median, high = (deciles[i] for i in (1, 4, 7))
    flops, most = count(outline).of_passes(method.cost(options.precision)) * size, peak(device or "", options.precision)
    # the released step's passes are others
    is_counted = most is not None and timed.does_our_passes
    # in bf16 the peers train bf16 weights themselves, without a master copy: that is another algorithm
    is_alike = options.precision != "bf16" and timed is not plain
    floor = statistics.median(plain.seconds) if plain is not None and plain.seconds and is_alike else None
    peaks = collectives.gather(timed.peak_bytes)
    switches = {"optimizer": options.optimizer, "ZeRO": engine.zero_stage, "attention": engine.attention}
    switches |= {"compile": engine.compile, "channels_last": engine.channels_last}
    switches |= {"checkpointing": engine.activation_checkpointing}
    switches |= {"micro-batch": engine.forward_batch_size or size, "threads": torch.get_num_threads()}
    return [
        *start,
        *(f"{1e3 * seconds:.1f}" for seconds in (median, low, high)),
        "–" if floor is None else f"{median / floor:.3f}",
        f"{(1 + method.needs_forget) * size / median:.2f}",
        f"{flops / median / most:.1%}" if is_counted else "–",
        "–" if options.keep else f"{max(peaks) / 1e9:.2f}",
        f"{timed.num_bytes / 1e6:.1f}",
        ", ".join(f"{key} {value}" for key, value in switches.items()),
    ]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:  # a ConfigError is one
        sys.exit(f"throughput.py: {error}")
