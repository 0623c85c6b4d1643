"""Runs of two real ranks that are killed, stopped and broken, beside one undisturbed run: hence one long file."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from erasediff.shards import Dataset, Stream
from erasediff.trainer.run.attempts import history
from processes import Started, start
from ranks import run_ranks
from safetensors.torch import load_file
from tiny import TIMING

NUM_STEPS = 24
SUPPORT = Path(__file__).parent


class Run:
    """`erasediff launch local -n 2 scrub`, started again and again on one run folder."""

    def __init__(self, digits: Path, base_model: Path, output: Path, *, forget: Path | None = None):
        self.output = output
        split = digits / "split"
        self.scrub = [
            *("scrub", "--model.path", str(base_model), "--model.null-class", "10"),
            *("--forget", str(forget or split / "forget"), "--remain", str(split / "remain"), "--output", str(output)),
            *("--engine.device", "cpu", "--train.max-train-steps", str(NUM_STEPS), "--train.train-batch-size", "4"),
            *("--train.checkpointing-steps", "3", "--optimizer.ema-decay", "0.5"),
        ]

    def start(self, *options: str, num_ranks: int = 2, fresh: bool = False) -> Started:
        launch = ["-m", "erasediff.launch"]
        if num_ranks > 1:
            launch += ["launch", "local", "-n", str(num_ranks), "--kill-delay-seconds", "20"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        return start([*launch, *self.scrub, *options], environment, new_session=True, fresh=fresh)

    def start_until(self, reached: Callable[[], bool], *options: str, num_ranks: int = 2) -> Started:
        launcher = self.start(*options, num_ranks=num_ranks)
        deadline = time.monotonic() + 200
        while not reached():
            assert launcher.poll() is None, launcher.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return launcher

    def finish(self, *options: str, fresh: bool = False) -> str:
        return self.ends_with(0, *options, fresh=fresh)

    def ends_with(self, status: int, *options: str, fresh: bool = False) -> str:
        launcher = self.start(*options, fresh=fresh)
        _, said = launcher.communicate(timeout=200)
        assert launcher.returncode == status, said
        assert "Traceback" not in said, said
        return said

    def metrics(self) -> list[dict[str, float]]:
        lines = [json.loads(line) for line in (self.output / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]

    def num_lines(self) -> int:
        """That the attempts have logged, all together."""
        return sum(path.read_bytes().count(b"\n") for path in self.output.glob("attempt-*/metrics.jsonl"))

    def checkpoints(self, *, published: bool) -> set[str]:
        folders = self.output.glob("attempt-*/checkpoint-*")
        return {
            str(path.relative_to(self.output)) for path in folders if (path / "manifest.json").exists() == published
        }

    def ends(self) -> list[str | None]:
        """How each attempt ended, as its manifest has it."""
        return [start["ended"] for start in history(self.output)]

    def assert_result_of(self, other: Run) -> None:
        ours, theirs = self.weights(), other.weights()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert self.metrics() == other.metrics()
        assert len(self.metrics()) == NUM_STEPS

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.output / "model" / "unet" / "diffusion_pytorch_model.safetensors")

    # the moments

    def after_steps(self, count: int) -> Callable[[], bool]:
        """So many steps after the one that this start begins with."""
        before = self.num_lines()
        return lambda: self.num_lines() >= before + count

    def while_writing(self) -> Callable[[], bool]:
        before = self.checkpoints(published=False)
        return lambda: bool(self.checkpoints(published=False) - before)

    def when_published(self) -> Callable[[], bool]:
        before = self.checkpoints(published=True)
        return lambda: bool(self.checkpoints(published=True) - before)


def ranks_of(launcher: Started) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]


def kill_everything(launcher: Started) -> None:
    for pid in [launcher.pid, *ranks_of(launcher)]:
        os.kill(pid, signal.SIGKILL)
    launcher.communicate()


@pytest.fixture(scope="module")
def undisturbed(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(digits, base_model, tmp_path_factory.mktemp("undisturbed") / "run")
    # as a user starts it; the others are compared with it
    run.finish(fresh=True)
    return run


@pytest.mark.timeout(900)  # seven starts of two ranks
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
    assert "give the same command again: it goes on from what was saved" in said
    assert "Traceback" not in said, said

    launcher = run.start_until(run.after_steps(2))
    os.kill(ranks_of(launcher)[1], signal.SIGTERM)
    _, said = launcher.communicate(timeout=100)
    assert launcher.returncode == os.EX_TEMPFAIL, said
    assert "all saved; the same command continues" in said
    last_attempt, last_checkpoint = max(run.checkpoints(published=True)).split("/")
    assert last_attempt == "attempt-0005"

    launcher = run.start_until(run.after_steps(2))
    os.killpg(launcher.pid, signal.SIGINT)  # Ctrl-C goes to the launcher and to its ranks
    _, said = launcher.communicate(timeout=100)
    assert launcher.returncode == os.EX_TEMPFAIL, said

    said = run.finish()
    assert "damaged" not in said
    run.assert_result_of(undisturbed)
    assert not run.checkpoints(published=False)
    starts = history(run.output)
    assert [start["attempt"] for start in starts] == [f"attempt-{number:04d}" for number in range(1, 8)]
    assert [start["ended"] for start in starts[:3]] == [None] * 3, "who is killed says nothing"
    assert "another rank has left" in starts[3]["ended"]
    assert all("all saved" in start["ended"] for start in starts[4:6])
    assert starts[6]["ended"] == "finished"
    assert starts[5]["began_from"] == f"{last_attempt}/{last_checkpoint}"
    assert starts[5]["first_step"] == int(last_checkpoint.rpartition("-")[2])


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
    assert run.checkpoints(published=True) == {"attempt-0001/checkpoint-000003"}
    assert str(run.ends()[0]) in finished[0].stderr
    assert not (run.output / "model").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once_unless_it_is_an_echo(number: signal.Signals) -> None:
    code = (
        "import time\nfrom erasediff.trainer.ranks import meeting\n"
        "with meeting.on_signals(), meeting.deferred():\n"
        "    print('ready', flush=True)\n"
        "    while not meeting.is_asked(): time.sleep(0.01)\n"
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
    finished = run_ranks(2, command, environment={"TORCHELASTIC_ERROR_FILE": str(tmp_path / "error.json")})
    assert [process.returncode for process in finished] == [1, 1]
    expected = "nothing has moved for 20 s: rank 1 is missing, last seen reading its samples in step 2"
    assert all(expected in process.stderr for process in finished)
    told = json.loads((tmp_path / "error.json").read_text())
    assert (told["message"]["message"], told["status"]) == (expected, 1), "what a launcher reads"
    assert "hang_worker.py" in finished[1].stderr, "the dump shows where it stood"


def test_two_starts_of_one_run_do_not_meet(digits: Path, base_model: Path, tmp_path: Path) -> None:
    run = Run(digits, base_model, tmp_path / "run")
    first = run.start_until(run.after_steps(1), num_ranks=1)
    first.send_signal(signal.SIGSTOP)
    second = run.start(num_ranks=1)
    _, said = second.communicate(timeout=200)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "another process is working on this run" in said
    assert "Traceback" not in said, said


def test_a_given_up_attempt_that_wakes_up_spoils_nothing(
    undisturbed: Run, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    run = Run(digits, base_model, tmp_path / "run")
    first = run.start_until(run.when_published())
    # its machine hangs, and with it the lock is lost, as on a file system that does not carry it
    for pid in [first.pid, *ranks_of(first)]:
        os.kill(pid, signal.SIGSTOP)
    (run.output / "lock").unlink()
    second = run.start_until(run.after_steps(4))
    for pid in [*ranks_of(first), first.pid]:
        os.kill(pid, signal.SIGCONT)
    _, said = first.communicate(timeout=100)
    assert first.returncode == 1, said
    assert "attempt-0002 has taken this run over: what attempt-0001 still makes is void" in said
    _, said = second.communicate(timeout=100)
    assert second.returncode == 0, said
    run.assert_result_of(undisturbed)
    assert "attempt-0002 has taken this run over" in str(run.ends()[0])
    assert run.ends()[1] == "finished"


def test_a_disk_that_fills_up_ends_all_in_plain_words_and_once_there_is_room_the_run_goes_on(
    undisturbed: Run, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    """Logs, metrics and checkpoints are on it alike; which of them meets the end of it first is chance."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        run = Run(digits, base_model, disk / "run")
        launcher = run.start_until(run.when_published())
        with pytest.raises(OSError, match="No space left"):
            (disk / "fill").write_bytes(bytes(4 << 20))
        _, said = launcher.communicate(timeout=100)
        assert launcher.returncode == 1, said
        assert "is full" in said and "Traceback" not in said
        (disk / "fill").unlink()
        run.finish()
        run.assert_result_of(undisturbed)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def damage(dataset: Dataset, rows: Sequence[int]) -> None:
    """Overwrites samples' contents where they lie."""
    for row in rows:
        entry = dataset.index[row]
        with dataset.files.paths[int(entry["shard"])].open("r+b") as file:
            file.seek(int(entry["offset"]))
            file.write(bytes(int(entry["length"])))


@pytest.fixture
def forget(digits: Path, tmp_path: Path) -> Dataset:
    """D_f in a place of its own."""
    return Dataset.open(shutil.copytree(digits / "split" / "forget", tmp_path / "forget"))


def test_a_shard_that_turns_unreadable_ends_all_ranks_and_once_repaired_the_run_goes_on(
    undisturbed: Run, digits: Path, base_model: Path, forget: Dataset, tmp_path: Path
) -> None:
    run = Run(digits, base_model, tmp_path / "run", forget=forget.path)
    (tar,) = forget.files.paths
    whole = tar.read_bytes()
    launcher = run.start_until(run.after_steps(4))
    damage(forget, range(len(forget)))
    _, said = launcher.communicate(timeout=100)
    assert launcher.returncode == 1, said
    assert "cannot be decoded" in said and "Traceback" not in said
    assert "Repair them and give the same command again" in said
    (how,) = run.ends()
    assert str(how) in said and not (run.output / "model").exists()
    tar.write_bytes(whole)
    run.finish()
    run.assert_result_of(undisturbed)


def test_a_sample_that_one_rank_cannot_read_is_left_out_if_allowed(
    digits: Path, base_model: Path, forget: Dataset, tmp_path: Path
) -> None:
    bad = Stream(forget, seed=0, batch_size=4).batch(4).keys[3]  # rank 1's
    damage(forget, [forget.keys.index(bad)])
    run = Run(digits, base_model, tmp_path / "run", forget=forget.path)
    said = run.ends_with(1)
    assert f"step 4: {forget.path}" in said and f"'{bad}': cannot be decoded" in said
    assert "train.max_bad_samples = n (it is 0)" in said
    assert run.checkpoints(published=True) == {"attempt-0001/checkpoint-000003"}
    said = run.finish("--train.max-bad-samples", "1")
    assert f"'{bad}': cannot be decoded" in said and said.count("left out") == 1
    assert history(run.output)[1]["bad_samples"] == [bad]
    assert [line["step"] for line in run.metrics()] == list(range(NUM_STEPS))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_moments_leave_the_undisturbed_result(
    undisturbed: Run, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    """A delay is drawn for each kill, from the first logged step of that start on; a run that finishes begins anew."""
    draw = random.Random(6)
    run, num_runs = Run(digits, base_model, tmp_path / "run-0"), 1

    for _ in range(20):
        launcher = run.start()
        reached = run.after_steps(1)
        while launcher.poll() is None and not reached():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 1.0))
        if launcher.poll() is None:
            kill_everything(launcher)
        if (run.output / "model").exists():
            run.assert_result_of(undisturbed)
            run, num_runs = Run(digits, base_model, tmp_path / f"run-{num_runs}"), num_runs + 1
    run.finish()
    run.assert_result_of(undisturbed)
