"""An erasure that is stopped, alone and on two ranks: it says so and goes on."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from erasediff.launch.cli import main
from erasediff.trainer.config import BudgetConfig, CompareConfig, EngineConfig, EraseConfig, TrainConfig
from erasediff.trainer.config.toml import dump_toml
from erasediff.trainer.erase import run_erase
from erasediff.trainer.evidence.record import read_record
from erasediff.trainer.ranks import meeting
from erasediff.trainer.run.folder import is_finished
from evidence_cases import tiny_judge
from processes import start
from tiny import tiny_config


def inside(function: str) -> bool:
    """Whether the main thread is in a function of that name."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    while frame is not None:
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False


def stopped_by(number: signal.Signals, reached: Callable[[], bool], words: list[str]) -> int:
    """Runs the command here and sends this process the signal once `reached`; returns its exit status."""

    def watch() -> None:
        while not over.is_set():
            if reached():
                os.kill(os.getpid(), number)
                return
            time.sleep(0.001)

    over = threading.Event()
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return main(words)
    finally:
        over.set()
        watcher.join()
        for each, handler in before.items():
            signal.signal(each, handler)
        meeting._signalled_at = None


def test_a_stop_in_any_stage_leaves_with_75_and_the_same_command_continues(
    config: EraseConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(config, train=TrainConfig(max_train_steps=30, train_batch_size=4))
    (tmp_path / "erase.toml").write_text(dump_toml(config))
    words, output = ["erase", str(tmp_path / "erase.toml")], Path(config.output)

    assert stopped_by(signal.SIGTERM, lambda: inside("as_completed"), words) == os.EX_TEMPFAIL
    assert not (output / "split").exists() and (output / ".split.partial").exists(), "what was written is kept"
    assert "stopped, what was done is kept; the same command continues" in capfd.readouterr().err

    metrics = output / "scrub" / "attempt-0001" / "metrics.jsonl"
    status = stopped_by(signal.SIGINT, lambda: metrics.exists(), words)
    assert status == os.EX_TEMPFAIL, capfd.readouterr().err
    assert "all saved; the same command continues" in capfd.readouterr().err
    assert list(metrics.parent.glob("checkpoint-*/manifest.json")) and not meeting.is_asked()

    # too late for the last step's packet: the scrub is done, and the evaluation does not begin
    assert stopped_by(signal.SIGTERM, lambda: inside("publish_model"), words) == os.EX_TEMPFAIL
    assert is_finished(output / "scrub") and not meeting.is_asked()

    assert stopped_by(signal.SIGTERM, lambda: inside("evaluate"), words) == os.EX_TEMPFAIL
    assert not (output / "record.json").exists()
    assert capfd.readouterr().err.count("the same command continues") == 2

    assert main(words) == 0
    starts = read_record(output / "record.json").run.starts
    assert [start["attempt"] for start in starts] == ["attempt-0001", "attempt-0002"]
    assert "all saved" in starts[0]["ended"] and starts[1]["ended"] == "finished"
    assert (output / "model").exists()


def test_a_stop_while_a_comparison_publishes_or_times_a_scrub(
    digits: Path, base_model: Path, classifier: Path, tmp_path: Path
) -> None:
    config = CompareConfig(
        output=str(tmp_path / "out"),
        model=tiny_config(digits, base_model, tmp_path).model,
        data=str(digits / "data"),
        forget=str(digits / "split" / "forget"),
        remain=str(digits / "split" / "remain"),
        methods={"ours": {}},
        train={"max_train_steps": 2, "train_batch_size": 4},
        engine=EngineConfig(device="cpu", num_threads=1),
        judge=tiny_judge(classifier),
    )
    (tmp_path / "steps.toml").write_text(dump_toml(config))
    words = ["compare", str(tmp_path / "steps.toml")]
    assert stopped_by(signal.SIGTERM, lambda: inside("publish_model"), words) == os.EX_TEMPFAIL
    assert is_finished(tmp_path / "out" / "runs" / "ours.0") and not meeting.is_asked()
    assert not list((tmp_path / "out").glob("rows/*.json")), "nothing was measured"

    config = dataclasses.replace(config, output=str(tmp_path / "timed"), budget=BudgetConfig(seconds=1.5))
    (tmp_path / "seconds.toml").write_text(dump_toml(dataclasses.replace(config, train={"train_batch_size": 4})))
    words = ["compare", str(tmp_path / "seconds.toml")]
    assert stopped_by(signal.SIGTERM, lambda: inside("publish_model"), words) == os.EX_TEMPFAIL
    assert not (tmp_path / "timed" / "runs").exists() and not meeting.is_asked()


def test_the_launcher_carries_a_request_out_on_two_ranks_and_is_stopped_in_between(
    config: EraseConfig, tmp_path: Path
) -> None:
    (tmp_path / "erase.toml").write_text(dump_toml(config))
    words = ["launch", "local", "-n", "2", "erase", str(tmp_path / "erase.toml")]
    command, output = ["-m", "erasediff.launch", *words], Path(config.output)
    launcher = start(command, os.environ)
    while not (output / "scrub" / "model").exists():
        assert launcher.poll() is None
        time.sleep(0.001)
    launcher.send_signal(signal.SIGTERM)
    _, said = launcher.communicate(timeout=100)
    assert launcher.returncode == os.EX_TEMPFAIL, said
    assert "Traceback" not in said and not (output / "record.json").exists()
    launched = start(command, os.environ)
    _, said = launched.communicate(timeout=200)
    assert launched.returncode == 0, said
    record = read_record(output / "record.json")
    assert record.verdict == "not shown" and record.run.starts[0]["world_size"] == 2
    assert len(record.run.starts) == 1
    DDPMPipeline.from_pretrained(output / "model")


def test_the_evaluation_has_the_room_of_the_scrub(config: EraseConfig) -> None:
    """At stage 3 hooks hold the weights in circles."""
    num_tensors: list[int] = []

    def look_and_stop() -> None:
        for _ in range(2):
            num_tensors.append(sum(type(one) is torch.Tensor for one in gc.get_objects()))
            gc.collect()
        raise TimeoutError

    with pytest.raises(TimeoutError):
        run_erase(
            dataclasses.replace(config, engine=EngineConfig(device="cpu", zero_stage=3)),
            before_evaluation=look_and_stop,
        )
    assert num_tensors[0] == num_tensors[1]
