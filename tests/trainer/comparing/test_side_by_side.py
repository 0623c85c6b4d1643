"""Comparisons that write into one folder at once, each its own rows: what they share is made by one after the other."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from erasediff.trainer.comparing.rows import read_row
from erasediff.trainer.comparing.run import run_compare, write_again
from erasediff.trainer.config import CompareConfig, EngineConfig, ResNetConfig
from erasediff.trainer.files import alone
from evidence_cases import tiny_judge


def test_what_rows_share_is_made_by_one_comparison_at_a_time(
    digits: Path, base_model: Path, classifier: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    resnet = ResNetConfig(blocks=(1,), width=8, num_epochs=1, flip=False)
    judge = tiny_judge(classifier, thresholds=("accuracy_remaining >= 0",), num_remain_samples_per_class=4)
    config = CompareConfig(
        output=str(output),
        model=tiny.tiny_config(digits, base_model, tmp_path).model,
        data=str(digits / "data"),
        forget=str(digits / "split" / "forget"),
        remain=str(digits / "split" / "remain"),
        methods={name: {"method": {"name": "finetune"}} for name in ("one", "other")},
        seeds=(0,),
        train={"max_train_steps": 1, "train_batch_size": 4},
        engine=EngineConfig(device="cpu", num_threads=1),
        judge=dataclasses.replace(judge, classifier=None, architecture="resnet", resnet=resnet),
    )
    shared = {
        "judge": output / "classifier.safetensors",
        "references": output / "rows" / "unscrubbed.json",
        "tables": output / "comparison.csv",
    }
    held = {name: alone(output, f".{name}") for name in shared}
    for lock in held.values():
        lock.__enter__()
    running = threading.Thread(target=run_compare, args=(config,), kwargs={"only": ("one",)}, daemon=True)
    running.start()
    for name, path in shared.items():
        time.sleep(4)
        assert not path.exists(), f"the other comparison's {name} were not waited for"
        held[name].__exit__(None, None, None)
        wait_for(path.exists, running)
    running.join()
    assert read_row(output / "rows" / "one.0.json") is not None
    # the one that comes second takes what is there, and its tables have both
    judged = shared["judge"].stat().st_mtime_ns, shared["references"].stat().st_mtime_ns
    run_compare(config, only=("other",))
    assert judged == (shared["judge"].stat().st_mtime_ns, shared["references"].stat().st_mtime_ns)
    table = (output / "comparison.md").read_text()
    assert "| one " in table and "| other " in table
    write_again(config)
    assert (output / "comparison.md").read_text() == table


def wait_for(there: Callable[[], bool], running: threading.Thread) -> None:
    while not there():
        assert running.is_alive() or there(), "it ended without it"
        time.sleep(0.05)


def test_without_locks_nothing_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(tmp_path), pytest.raises(BlockingIOError), alone(tmp_path, waits=False):
        pass

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone(tmp_path), alone(tmp_path):
        pass
