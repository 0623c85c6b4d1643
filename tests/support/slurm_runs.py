"""Runs on a real SLURM, disturbed and not."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from erasediff.launch.slurm.controller import State, states
from erasediff.launch.slurm.folder import End, Start, newest, starts, submissions
from processes import start
from safetensors.torch import load_file

CLUSTER = Path(__file__).parent.parent / "slurm" / "cluster.sh"
# CI says that they must run
MAY_SKIP = os.environ.get("ERASEDIFF_SLURM_TESTS") != "required"
NUM_STEPS = 60
# whoever submits may do so from within a job, one of an array, started a sixth time
OF_ANOTHER_JOB = {
    "SLURM_ARRAY_JOB_ID": "9",
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_RESTART_COUNT": "5",
    "SLURM_GPUS_PER_TASK": "1",
    "SLURM_MEM_PER_CPU": "100000",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_PARTITION": "nowhere",
}


class Cluster:
    def __init__(self, environment: Mapping[str, str]):
        self._environment = dict(environment)

    def do(self, *words: str) -> str:
        done = subprocess.run(
            ["bash", str(CLUSTER), *words], env=self._environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


class Run:
    """`launch slurm scrub` of a tiny model, on one run folder."""

    def __init__(self, digits: Path, base_model: Path, output: Path, num_steps: int = NUM_STEPS):
        self.output = output
        split = digits / "split"
        self.scrub = [
            *("scrub", "--model.path", str(base_model), "--model.null-class", "10"),
            *("--forget", str(split / "forget"), "--remain", str(split / "remain"), "--output", str(output)),
            *("--engine.device", "cpu", "--train.max-train-steps", str(num_steps), "--train.train-batch-size", "4"),
            *("--train.checkpointing-steps", "5", "--optimizer.ema-decay", "0.5"),
        ]

    def launch(self, *words: str, timeout_seconds: float = 250) -> subprocess.CompletedProcess[str]:
        """`erasediff launch WORDS`, in the folder beside the run."""
        command = ["-m", "erasediff.launch", "launch", *words]
        environment = os.environ | OF_ANOTHER_JOB | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        process = start(command, environment, cwd=self.output.parent)
        out, err = process.communicate(timeout=timeout_seconds)
        return subprocess.CompletedProcess(command, process.wait(), out, err)

    def submit(self, *options: str) -> str:
        """The job's number."""
        done = self.launch("slurm", "--nodes", "2", "--timeout-min", "15", *options, *self.scrub)
        assert done.returncode == 0, done.stderr
        return submissions(self.output)[-1].job

    @property
    def job(self) -> str:
        return submissions(self.output)[-1].job

    @property
    def job_folder(self) -> Path:
        return self.output / "slurm" / submissions(self.output)[-1].folder

    def state(self) -> State:
        return states([self.job])[self.job]

    def until(self, what: str, reached: Callable[[], bool], timeout_seconds: float = 200) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not reached():
            if time.monotonic() > deadline or (self.state().has_ended and not reached()):
                raise AssertionError(f"{what} did not come: {self.state()}\n{self.said()}")
            time.sleep(0.02)

    def until_step(self, step: int, start: int) -> None:
        """Until start number `start` is at work and has published a checkpoint of that step or a later one."""
        self.until(
            f"step {step} of start {start}",
            lambda: bool(starts(self.job_folder)) and starts(self.job_folder)[-1].number == start and self.step >= step,
        )

    @property
    def step(self) -> int:
        return newest(self.output)[0]

    def until_end(self, timeout_seconds: float = 200) -> State:
        self.until("the end", lambda: self.state().has_ended, timeout_seconds)
        return self.state()

    def end(self, number: int) -> End:
        """How a start ended."""
        self.until(f"the end of start {number}", lambda: Start(self.job_folder, number).end() is not None)
        end = Start(self.job_folder, number).end()
        assert end is not None
        return end

    def pid(self, rank: int) -> int:
        """Of the process that is a rank of the start at work."""
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = path.read_bytes().split(b"\0")
                words = (path.parent / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"submitit.core._submit" in words and {
                f"SLURM_JOB_ID={self.job}".encode(),
                f"SLURM_PROCID={rank}".encode(),
            } <= set(variables):
                return int(path.parent.name)
        raise AssertionError(f"no rank {rank} runs")

    def said(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()[-1500:]}" for path in self.job_folder.glob("*_log.*"))

    def is_equal_to(self, other: Path) -> bool:
        """Whether the weights, bit for bit, and the metrics, but for seconds, are the other run's."""
        ours, theirs = (
            load_file(run / "model" / "unet" / "diffusion_pytorch_model.safetensors") for run in (self.output, other)
        )
        return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
