"""A run's folder between any two of its file operations: killed, full, damaged, without locks, started twice."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from erasediff.trainer import EraseDiffConfig, files
from erasediff.trainer.config import EngineConfig, ModelConfig, ScrubConfig, TrainConfig
from erasediff.trainer.config.toml import as_dict, flatten
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError, TrainingError
from erasediff.trainer.run import attempts
from erasediff.trainer.run import folder as run_folder
from erasediff.trainer.run.attempts import Attempt, chain, history, read_metrics
from erasediff.trainer.run.folder import RunFolder, is_finished
from erasediff.trainer.run.identity import FREE_KEYS, free_settings, what_counts, without_free
from erasediff.trainer.scrubbing import run_scrub
from safetensors.torch import save_file
from tiny import tiny_config


def open_run(output: Path) -> RunFolder:
    config = ScrubConfig(model=ModelConfig("model"), forget="forget", remain="remain", output=str(output))
    return RunFolder(config, config.output)


def start(run: Path, began_from: str | None, first_step: int, until_step: int) -> Attempt:
    """An attempt that logs the steps [first_step, until_step)."""
    attempt = Attempt.create(run)
    attempt.begin(None if began_from is None else run / began_from, first_step)
    for step in range(first_step, until_step):
        attempt.log({"step": step, "by": attempt.number})
    return attempt


def write_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "weights").write_text("new")


def write_large_model(folder: Path) -> None:
    folder.mkdir()
    save_file({"weights": torch.zeros(1 << 20)}, folder / "weights.safetensors")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # this process keeps its locks


def fill(disk: Path) -> Path:
    path = disk / "fill"
    with pytest.raises(OSError, match="No space left"):
        path.write_bytes(bytes(1 << 20))
    return path


def test_the_newest_attempt_and_those_it_goes_on_from_are_the_run(tmp_path: Path) -> None:
    start(tmp_path, None, 0, 8)
    start(tmp_path, "attempt-0001/checkpoint-000006", 6, 7)
    start(tmp_path, "attempt-0001/checkpoint-000003", 3, 5)  # 6 was damaged
    with (tmp_path / "attempt-0003" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "by')  # torn by a kill
    start(tmp_path, "attempt-0003/checkpoint-000005", 5, 7)
    assert [link.attempt.number for link in chain(tmp_path)] == [1, 3, 4]
    assert [(line["step"], line["by"]) for line in read_metrics(tmp_path)] == [
        *((0, 1), (1, 1), (2, 1), (3, 3), (4, 3), (5, 4), (6, 4)),
    ]
    assert [start["attempt"][-1] for start in history(tmp_path)] == ["1", "2", "3", "4"]


def test_a_start_that_was_killed_before_it_wrote_anything_is_listed_and_leads_nowhere(tmp_path: Path) -> None:
    start(tmp_path, None, 0, 2)
    (tmp_path / "attempt-0002").mkdir()
    (tmp_path / "attempt-0002" / "attempt.json.partial").write_text('{"da')
    assert start(tmp_path, "attempt-0001/checkpoint-000002", 2, 3).number == 3
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2]
    assert history(tmp_path)[1] == {"attempt": "attempt-0002"}


@pytest.mark.parametrize("content", ["", '{"date": "2026', "[]", '{"date": "2026", "from": "a later version"}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    open_run(tmp_path)
    start(tmp_path, None, 0, 2)
    (tmp_path / "attempt-0001" / "attempt.json").write_text(content)
    with pytest.raises(ConfigError, match=r"attempt-0001/attempt.json is damaged, or a newer erasediff wrote it"):
        open_run(tmp_path)


def test_an_attempt_that_was_removed_is_named_until_the_run_is_finished(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    start(tmp_path, None, 0, 2)
    second = start(tmp_path, "attempt-0001/checkpoint-000002", 2, 3)
    kept = shutil.move(tmp_path / "attempt-0001", tmp_path.with_name("kept"))
    with pytest.raises(ConfigError, match=r"attempt-0001/attempt.json is missing, and attempt-0002 went on from there"):
        open_run(tmp_path)
    shutil.move(kept, tmp_path / "attempt-0001")
    run.publish_model(write_model, second)
    shutil.rmtree(tmp_path / "attempt-0001")
    assert open_run(tmp_path).is_finished
    assert [start["attempt"] for start in history(tmp_path)] == ["attempt-0001", "attempt-0002"], "it was a start"
    shutil.rmtree(tmp_path / "attempt-0002")
    assert open_run(tmp_path).is_finished


def test_settings_that_may_change_are_the_attempts_and_differences_are_named(
    digits: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def config(steps: int, **engine: Any) -> ScrubConfig:
        train = TrainConfig(max_train_steps=4, train_batch_size=4, checkpointing_steps=steps)
        return tiny_config(digits, base_model, tmp_path, train=train, engine=EngineConfig(**engine))

    def interrupt(step: int, model: ShardedModel) -> None:
        if step == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_scrub(config(2, zero_stage=1), watch=interrupt)
    capsys.readouterr()
    run_scrub(config(3, zero_stage=3, forward_batch_size=2, activation_checkpointing="all"))
    said = capsys.readouterr().err
    for line in (
        "engine.zero_stage = 3 here, 1 in attempt-0001: equal to rounding, not bit for bit\n",
        "engine.forward_batch_size = 2 here, none in attempt-0001: equal to rounding, not bit for bit\n",
        "engine.activation_checkpointing = all here, off in attempt-0001: equal to rounding, not bit for bit\n",
        "train.checkpointing_steps = 3 here, 2 in attempt-0001\n",
    ):
        assert f"erasediff: {line}" in said
    assert said.count(" here, ") == 4, "the same device, and nothing else"
    first, second = (start["settings"] for start in history(tmp_path))
    assert first.keys() == second.keys() == free_settings(config(2)).keys() and len(first) > 10
    assert (first["engine.zero_stage"], first["engine.forward_batch_size"]) == (1, "none")
    assert (second["engine.zero_stage"], second["engine.forward_batch_size"]) == (3, 2)
    assert first["engine.device"] == second["engine.device"] != "auto", "the one that was found"


def test_what_the_record_copies_of_the_config_holds_for_every_start() -> None:
    config = ScrubConfig(model=ModelConfig("model"), forget="forget", remain="remain", output="run")
    kept = flatten(without_free(as_dict(config)))
    assert kept == what_counts(as_dict(config)) and not kept.keys() & FREE_KEYS
    assert flatten(as_dict(config)) == kept | free_settings(config)


def test_a_run_that_is_removed_under_its_feet_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    attempt = start(run, None, 0, 1)
    shutil.rmtree(run)
    assert attempt.superseded() is None
    with pytest.raises(FileNotFoundError, match=r"attempt-0001/metrics\.jsonl"):
        attempt.log({"step": 1})
    with pytest.raises(FileNotFoundError, match="removed while the run goes on"):
        attempt.end("finished")


def test_a_folder_in_which_a_start_was_killed_at_once_can_be_used(tmp_path: Path) -> None:
    for name in ("lock", "config.toml.partial"):
        (tmp_path / name).write_text("")
    (tmp_path / "logs").mkdir()
    assert not open_run(tmp_path).is_finished
    assert not (tmp_path / "config.toml.partial").exists()


def test_a_file_system_without_locks_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert not open_run(tmp_path).is_finished


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["sync_tree", "write_text", "sync"])
def test_a_model_counts_only_when_its_attempt_says_so(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start was killed while it published, and what a given-up one had published lies there."""
    run = open_run(tmp_path)
    (tmp_path / "model").mkdir()
    attempt = start(tmp_path, None, 0, 2)

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_folder, where, kill)
        run.publish_model(write_model, attempt)
    assert not run.is_finished
    assert history(tmp_path)[0]["ended"] is None
    run.publish_model(write_model, start(tmp_path, None, 0, 2))
    assert run.is_finished
    assert (tmp_path / "model" / "weights").read_text() == "new"
    assert [json.loads(line)["by"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [2, 2]


def test_a_given_up_attempt_publishes_no_model(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    first = start(tmp_path, None, 0, 2)
    start(tmp_path, None, 0, 1)
    with pytest.raises(TrainingError, match=r"attempt-0002 has taken this run over.*no model is published"):
        run.publish_model(write_model, first)
    assert not (tmp_path / "model").exists() and not (tmp_path / "metrics.jsonl").exists()


def test_two_starts_at_once_are_two_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(tmp_path, None, 0, 2)
    read = attempts.read_attempts

    def read_too_early(run: Path) -> list[Attempt]:
        found = read(run)
        (run / "attempt-0002").mkdir(exist_ok=True)  # the other one comes in between
        return found

    monkeypatch.setattr(attempts, "read_attempts", read_too_early)
    assert Attempt.create(tmp_path).number == 3


@pytest.mark.parametrize("write", [write_model, write_large_model])
def test_a_disk_too_full_for_the_model_is_an_error_that_names_the_folder(
    small_disk: Path, write: Callable[[Path], None]
) -> None:
    run = open_run(small_disk / "run")
    attempt = start(run.path, None, 0, 2)
    filled = fill(small_disk) if write is write_model else None
    with pytest.raises(TrainingError, match=r"model.partial cannot be made the model.*[Nn]o space left"):
        run.publish_model(write, attempt)
    assert not is_finished(run.path)
    if filled is not None:
        filled.unlink()
    run.publish_model(write_model, attempt)
    assert is_finished(run.path)


def test_what_a_full_disk_stops_names_its_file(small_disk: Path) -> None:
    run = open_run(small_disk / "run")
    attempt = start(run.path, None, 0, 2)
    filled = fill(small_disk)
    with pytest.raises(OSError, match=r"attempt-0001/attempt.json'"):
        attempt.end("because")
    with pytest.raises(OSError, match=r"attempt-0001/metrics.jsonl'"):
        for step in range(2, 1000):
            attempt.log({"step": step})
    with pytest.raises(OSError, match=r"config\.toml"):
        files.write_text(small_disk / "run" / "config.toml", "a = 1")
    filled.unlink()
    assert history(run.path)[0]["ended"] is None, "what was there is whole"
    assert [line["step"] for line in read_metrics(run.path)][:2] == [0, 1]


def test_a_default_that_an_upgrade_changed_is_named_and_can_be_set(
    digits: Path, base_model: Path, tmp_path: Path
) -> None:
    train = TrainConfig(max_train_steps=4, train_batch_size=4, checkpointing_steps=2)

    def config(**method: float) -> ScrubConfig:
        return tiny_config(digits, base_model, tmp_path / "run", method=EraseDiffConfig(**method), train=train)  # pyright: ignore[reportArgumentType]

    def kill(step: int, _: ShardedModel) -> None:
        if step == 3:
            raise Killed

    # begun when 1.5 was the default, and when a setting of today did not exist
    with pytest.raises(Killed):
        run_scrub(config(lambda_cap=1.5), watch=kill)
    recorded = tmp_path / "run" / "config.toml"
    recorded.write_text("".join(line for line in recorded.read_text().splitlines(True) if "descent_every" not in line))
    with pytest.raises(ConfigError, match=r"method.lambda_cap = 1.5 there, 3.0 here; set it as it is there to conti"):
        run_scrub(config())
    run_scrub(config(lambda_cap=1.5))
    assert [start["ended"] for start in history(tmp_path / "run")] == [None, "finished"]
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [0, 1, 2, 3]
