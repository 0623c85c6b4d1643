"""Runs of two real ranks that are killed, stopped and broken: each continues to the undisturbed run's result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file

NUM_STEPS = 24
SUPPORT = Path(__file__).parent


class Run:
    """`erasediff launch local -n 2 scrub`, started again and again on one run folder."""

    def __init__(self, digits: Path, base_model: Path, output: Path):
        self.output = output
        split = digits / "split"
        self.scrub = [
            *("scrub", "--model.path", str(base_model), "--model.null-class", "10"),
            *("--forget", str(split / "forget"), "--remain", str(split / "remain"), "--output", str(output)),
            *("--engine.device", "cpu", "--train.max-train-steps", str(NUM_STEPS), "--train.train-batch-size", "4"),
            *("--train.checkpointing-steps", "3", "--optimizer.ema-decay", "0.5"),
        ]

    def start(self) -> subprocess.Popen[str]:
        launch = [sys.executable, "-m", "erasediff.launch", "launch", "local", "-n", "2", "--kill-delay-seconds", "20"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        return subprocess.Popen(
            [*launch, *self.scrub], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def start_until(self, reached: Callable[[], bool]) -> subprocess.Popen[str]:
        launcher = self.start()
        deadline = time.monotonic() + 200
        while not reached():
            assert launcher.poll() is None, launcher.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return launcher

    def finish(self) -> str:
        launcher = self.start()
        _, said = launcher.communicate(timeout=200)
        assert launcher.returncode == 0, said
        return said

    def metrics(self) -> list[dict[str, float]]:
        lines = [json.loads(line) for line in (self.output / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    def num_lines(self) -> int:
        path = self.output / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def checkpoints(self, *, published: bool) -> set[str]:
        folders = self.output.glob("checkpoint-*")
        return {path.name for path in folders if (path / "manifest.json").exists() == published}

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.output / "model" / "unet" / "diffusion_pytorch_model.safetensors")

    # the moments

    def after_steps(self, count: int) -> Callable[[], bool]:
        """So many steps after the one that this start begins with."""
        seen: list[int] = []

        def reached() -> bool:
            # a start cuts the lines back to its checkpoint
            seen.append(self.num_lines())
            return len(seen) > 1 and seen[-1] >= min(seen) + count and seen[-1] > seen[-2]

        return reached

    def while_writing(self) -> Callable[[], bool]:
        before = self.checkpoints(published=False)
        return lambda: bool(self.checkpoints(published=False) - before)

    def when_published(self) -> Callable[[], bool]:
        before = self.checkpoints(published=True)
        return lambda: bool(self.checkpoints(published=True) - before)


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]


def kill_everything(launcher: subprocess.Popen[str]) -> None:
    for pid in [launcher.pid, *ranks_of(launcher)]:
        os.kill(pid, signal.SIGKILL)
    launcher.communicate()


@pytest.fixture(scope="module")
def undisturbed(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(digits, base_model, tmp_path_factory.mktemp("undisturbed") / "run")
    run.finish()
    return run


def test_a_run_that_is_killed_and_stopped_again_and_again_has_the_undisturbed_result(
    undisturbed: Run, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    run = Run(digits, base_model, tmp_path / "run")
    kill_everything(run.start_until(run.after_steps(2)))
    kill_everything(run.start_until(run.while_writing()))
    kill_everything(run.start_until(run.when_published()))

    launcher = run.start_until(run.after_steps(2))
    os.kill(ranks_of(launcher)[1], signal.SIGKILL)
    _, said = launcher.communicate(timeout=100)
    assert launcher.returncode == 128 + signal.SIGKILL, said
    assert "erasediff: rank 1 was ended by SIGKILL" in said

    launcher = run.start_until(run.after_steps(2))
    os.kill(ranks_of(launcher)[1], signal.SIGTERM)
    _, said = launcher.communicate(timeout=100)
    assert launcher.returncode == os.EX_TEMPFAIL, said
    assert "checkpoint saved; the same command continues" in said
    stopped_after = max(run.checkpoints(published=True))
    assert int(stopped_after.rpartition("-")[2]) == run.num_lines()

    said = run.finish()
    assert "damaged" not in said
    ours, theirs = run.weights(), undisturbed.weights()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert run.metrics() == undisturbed.metrics()
    assert len(run.metrics()) == NUM_STEPS
    assert len((run.output / "starts.jsonl").read_text().splitlines()) == 6
    assert not run.checkpoints(published=False)


def test_each_rank_has_its_log(undisturbed: Run) -> None:
    logs = sorted(undisturbed.output.glob("logs/*/*/*/stderr.log"))
    assert [path.parent.name for path in logs] == ["0", "1"]
    assert f"scrub {NUM_STEPS}/{NUM_STEPS}" in logs[0].read_text()


def test_a_nan_on_one_rank_stops_both_and_names_the_loss(digits: Path, base_model: Path, tmp_path: Path) -> None:
    run = Run(digits, base_model, tmp_path / "run")
    finished = run_ranks(2, [str(SUPPORT / "nan_worker.py"), *run.scrub])
    assert [process.returncode for process in finished] == [1, 1]
    assert "step 4: the remain loss L_r is NaN" in finished[0].stderr
    assert "Traceback" not in finished[0].stderr + finished[1].stderr
    assert run.checkpoints(published=True) == {"checkpoint-000003"}
    assert not (run.output / "model").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once_unless_it_is_an_echo(number: signal.Signals) -> None:
    code = (
        "import time\nfrom erasediff.trainer import stopping\n"
        "with stopping.on_signals():\n"
        "    print('ready', flush=True)\n"
        "    while not stopping.is_asked(): time.sleep(0.01)\n"
        "    print('asked', flush=True)\n"
        "    time.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2.1)
    process.send_signal(number)
    assert process.wait(20) == 128 + number


def test_a_rank_that_hangs_is_named_and_both_end(digits: Path, base_model: Path, tmp_path: Path) -> None:
    run = Run(digits, base_model, tmp_path / "run")
    command = [str(SUPPORT / "hang_worker.py"), *run.scrub, "--engine.step-timeout-seconds", "20"]
    finished = run_ranks(2, command)
    assert [process.returncode for process in finished] == [1, 1]
    expected = "nothing has moved for 20 s: rank 1 is missing, last seen reading its samples in step 2"
    assert all(expected in process.stderr for process in finished)
    assert "hang_worker.py" in finished[1].stderr, "the dump shows where it stood"


def test_two_starts_of_one_run_do_not_meet(digits: Path, base_model: Path, tmp_path: Path) -> None:
    run = Run(digits, base_model, tmp_path / "run")
    first = run.start_until(run.after_steps(1))
    for pid in ranks_of(first):
        os.kill(pid, signal.SIGSTOP)
    second = run.start()
    _, said = second.communicate(timeout=200)
    kill_everything(first)
    assert second.returncode == 2
    assert "another process is working on this run" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_moments_leave_the_undisturbed_result(
    undisturbed: Run, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    """A delay is drawn for each kill, from the first logged step of that start on; a run that finishes begins anew."""
    draw = random.Random(6)
    run, num_runs = Run(digits, base_model, tmp_path / "run-0"), 1

    def compare() -> None:
        assert all(torch.equal(value, undisturbed.weights()[name]) for name, value in run.weights().items())
        assert run.metrics() == undisturbed.metrics()

    for _ in range(20):
        launcher = run.start()
        reached = run.after_steps(1)
        while launcher.poll() is None and not reached():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 1.0))
        if launcher.poll() is None:
            kill_everything(launcher)
        if (run.output / "model").exists():
            compare()
            run, num_runs = Run(digits, base_model, tmp_path / f"run-{num_runs}"), num_runs + 1
    run.finish()
    compare()
