"""What a checkpoint costs a run: `python benchmarks/checkpoint.py`, one process, on the CPU.

A row is a model. `step` and `pause` are medians of wall time: one training step, and how long `save` keeps the loop.
`write` is the thread's time from the pause to the published manifest, beside running steps. `cpu` is the CPU time of
one save, pause and thread together, as a share of 50 steps' CPU time: it does not depend on what else the machine does.

Then whole scrubs of the digits' model, 100 steps, with a checkpoint every 50 and without, in pairs.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from erasediff.trainer.config import EngineConfig, OptimizerConfig, UNetConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.models.families import unet2d
from erasediff.trainer.ranks import collectives
from erasediff.trainer.run.attempts import Attempt
from erasediff.trainer.run.checkpoint import Checkpoints
from erasediff.trainer.run.identity import Identity
from rows import Rows

BATCH_SIZE = 64
NUM_STEPS = 6
NUM_SAVES = 5
EVERY = 50
NUM_PAIRS = 5


class Noise:
    """A batch of 8 x 8 images, and the plain denoising loss on it."""

    def __init__(self) -> None:
        self.x = torch.randn(BATCH_SIZE, 1, 8, 8)
        self.t = torch.randint(1000, (BATCH_SIZE,))
        self.labels = torch.randint(10, (BATCH_SIZE,))
        self.weights = torch.ones(BATCH_SIZE)

    @staticmethod
    def loss(model: ShardedModel, batch: Noise) -> torch.Tensor:
        predicted = model.predict(batch.x, batch.t, class_labels=batch.labels, return_dict=False)[0]
        return (predicted - batch.x).square().mean(dim=(1, 2, 3))


def step(model: ShardedModel, number: int) -> None:
    """As much as EraseDiff's: two gradients and an update."""
    _, delta = model.gradient(Noise.loss, [Noise()])
    model.gradient(Noise.loss, [Noise()])
    model.step(delta, number, torch.zeros((), dtype=torch.float64))


def row(channels: tuple[int, ...], folder: Path) -> list[str]:
    engine = EngineConfig(device="cpu", num_threads=1)
    device = collectives.set_up(engine)
    unet = unet2d.make(UNetConfig(block_out_channels=channels), image_size=8, channels=1, num_classes=10).module
    model = ShardedModel(unet, engine, OptimizerConfig(ema_decay=0.9), device, max_train_steps=1000)
    for number in range(2):
        step(model, number)
    wall, cpu = [], time.process_time()
    for number in range(NUM_STEPS):
        start = time.perf_counter()
        step(model, number)
        wall.append(time.perf_counter() - start)
    cpu_step = (time.process_time() - cpu) / NUM_STEPS

    attempt = Attempt.create(folder)
    attempt.begin(None, 0)
    checkpoints = Checkpoints(attempt, 2, Identity({}, frozenset()))
    pauses, writes, cpu_saves = [], [], []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(1, NUM_SAVES + 1):
        start, cpu = time.perf_counter(), time.process_time()
        checkpoints.save(model, number)
        pauses.append(time.perf_counter() - start)
        checkpoints.wait()
        cpu_saves.append(time.process_time() - cpu)
        writes.append(time.perf_counter() - start - pauses[-1])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    num_bytes = sum(path.stat().st_size for path in max(folder.glob("attempt-*/checkpoint-*")).glob("*.safetensors"))
    share = statistics.median(cpu_saves) / (EVERY * cpu_step)
    figures = [1e3 * statistics.median(wall), 1e3 * statistics.median(pauses), 1e3 * statistics.median(writes)]
    step_ms, pause_ms, write_ms = figures
    return [
        "-".join(map(str, channels)),
        f"{num_bytes / 1e6:.1f}",
        f"{step_ms:.0f}",
        f"{pause_ms:.1f}",
        f"{write_ms:.0f}",
        f"{100 * share:.2f}",
        f"{grown / 1e6:.1f}",
    ]


def whole_scrubs(folder: Path) -> str:
    """What checkpoints add to the CPU seconds, and to the wall time, of a whole `erasediff scrub`."""

    def run(*words: str) -> tuple[float, float]:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "erasediff.launch", *words]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return cpu, time.perf_counter() - start

    run("shards", "build", "digits", "data")
    run("shards", "split", "data", "sets", "--forget-label", "3")
    engine = ("--engine.device", "cpu", "--engine.num-threads", "1")
    no_ema = (*engine, "--optimizer.ema-decay", "none")
    run("pretrain", "--data", "data", "--output", "base", "--train.max-train-steps", "1", *no_ema)
    scrub = ("scrub", "--model.path", "base/model", "--model.null-class", "10", *engine)
    sets = ("--forget", "sets/forget", "--remain", "sets/remain")
    cpu, wall = [], []
    for number in range(NUM_PAIRS):
        with_cpu, with_wall = run(
            *scrub, *sets, "--output", f"with-{number}", "--train.checkpointing-steps", str(EVERY)
        )
        without_cpu, without_wall = run(*scrub, *sets, "--output", f"without-{number}")
        cpu.append(100 * (with_cpu / without_cpu - 1))
        wall.append(100 * (with_wall / without_wall - 1))

    def shown(values: list[float]) -> str:
        return f"{statistics.median(values):+.1f} % (of {', '.join(f'{value:+.1f}' for value in sorted(values))})"

    return f"whole scrubs: cpu {shown(cpu)}, wall {shown(wall)}"


COLUMNS = [
    "channels",
    "checkpoint MB",
    "step ms",
    "pause ms",
    "write ms",
    "cpu of a save, % of 50 steps",
    "peak MB added",
]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    table = Rows(COLUMNS)
    for channels in ((32, 64), (128, 256)):
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            table.add(*row(channels, Path(folder)))
    collectives.tear_down()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        print(f"\n{whole_scrubs(Path(folder))}")


if __name__ == "__main__":
    main()
