"""What reads ahead does its own arithmetic, and takes no core's time from the passes for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

# threads of the process: once the passes have theirs, and once the readers have made batches beside them, of as many
# elements as torch shares out over threads (32,768) and more
THREADS = """
import os, sys, time, torch
from erasediff.trainer.bench.iteration import Iteration
from erasediff.trainer.config import BenchConfig, EngineConfig, ModelConfig, TrainConfig
from erasediff.trainer.ranks import collectives
engine = EngineConfig(device="cpu", num_threads=2)
train = TrainConfig(train_batch_size=1024, dataloader_num_workers={num_workers})
device = collectives.set_up(engine)
torch.ones(1 << 20).mul(2)
before = len(os.listdir("/proc/self/task"))
iteration = Iteration(BenchConfig(model=ModelConfig(sys.argv[1], null_class=10), train=train, engine=engine), device)
iteration.step()
iteration.step()
print(len(os.listdir("/proc/self/task")) - before, torch.get_num_threads())
iteration.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counted in /proc")
def test_a_reader_brings_no_threads_of_its_own(tmp_path: Path) -> None:
    model = str(tiny.make_pipeline(tmp_path / "model"))
    for num_workers in (1, 3):
        command = [sys.executable, "-c", THREADS.format(num_workers=num_workers), model]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        more, of_the_passes = map(int, done.stdout.split())
        assert (more, of_the_passes) == (num_workers, 2)
