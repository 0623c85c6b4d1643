"""A checkpoint under way: void, failing, on a disk that is too small."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoint_cases import SLICES, assert_equal, begin, make_model, names, save, vectors
from erasediff.trainer.errors import TrainingError
from erasediff.trainer.ranks import meeting
from erasediff.trainer.run.attempts import Attempt


def test_what_was_not_published_is_not_there(tmp_path: Path) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model)
    save(checkpoints, model, 1)
    attempt = tmp_path / "attempt-0001"
    shutil.copytree(attempt / "checkpoint-000001", attempt / "checkpoint-000002")
    (attempt / "checkpoint-000002" / "manifest.json").unlink()
    assert begin(tmp_path, make_model())[1] == 1


def test_what_a_given_up_attempt_still_publishes_is_void(tmp_path: Path) -> None:
    """Its machine was lost, a second attempt took over, and its background thread finishes a checkpoint later."""
    model = make_model()
    stale, _ = begin(tmp_path, model)
    first = save(stale, model, 1)
    save(stale, model, 2)
    late, aside = tmp_path / "attempt-0001" / "checkpoint-000002", tmp_path / "aside"
    late.rename(aside)

    other = make_model()
    begin(tmp_path, other)  # goes on from step 1 and makes no checkpoint
    aside.rename(late)

    third = make_model()
    assert begin(tmp_path, third)[1] == 1
    assert_equal(vectors(third), first)
    with pytest.raises(TrainingError, match=r"attempt-0003 has taken this run over: what attempt-0001 still makes"):
        stale.save(model, 3)
    assert names(tmp_path) == ["attempt-0001/checkpoint-000001", "attempt-0001/checkpoint-000002"]


def test_a_given_up_attempt_removes_nothing_of_a_later_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It slept between its look for a later one and its cleaning up."""
    model = make_model()
    stale, _ = begin(tmp_path, model, keep=1)
    save(stale, model, 1)
    other = make_model()
    late, _ = begin(tmp_path, other, keep=1)
    save(late, other, 2)
    monkeypatch.setattr(Attempt, "superseded", lambda self: None)
    save(stale, model, 3)
    assert names(tmp_path) == ["attempt-0001/checkpoint-000003", "attempt-0002/checkpoint-000002"]


def test_whatever_goes_wrong_in_the_thread_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model)
    monkeypatch.setattr(Attempt, "sync_metrics", lambda self: json.loads("no JSON"))
    with pytest.raises(TrainingError, match=r"checkpoint-000001 cannot be written: Expecting value"):
        save(checkpoints, model, 1)
    assert names(tmp_path) == []


def test_a_published_checkpoint_stays_where_older_ones_cannot_be_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model, keep=1)
    save(checkpoints, model, 1)
    manifest = tmp_path / "attempt-0001" / "attempt.json"
    whole = manifest.read_text()
    manifest.write_text("torn")  # which checkpoints count is no longer known
    saved = save(checkpoints, model, 2)
    said = capsys.readouterr().err
    assert "checkpoint-000002 is saved, but older checkpoints cannot be removed" in said and "is damaged" in said
    assert names(tmp_path) == ["attempt-0001/checkpoint-000001", "attempt-0001/checkpoint-000002"]
    assert not meeting.is_asked(), "the run goes on"
    manifest.write_text(whole)
    other = make_model()
    assert begin(tmp_path, other)[1] == 2
    assert_equal(vectors(other), saved)


def test_what_goes_wrong_once_a_checkpoint_is_published_does_not_remove_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model)
    monkeypatch.setattr(Attempt, "superseded", lambda self: None if not names(tmp_path) else 1 / 0)
    with pytest.raises(TrainingError, match="division by zero"):
        save(checkpoints, model, 1)
    monkeypatch.undo()
    assert begin(tmp_path, make_model())[1] == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with room for one checkpoint of the model of width 1000 and not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("seen", ["before it is written", "while it is written"])
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    small_disk: Path, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(width=1000)
    checkpoints, _ = begin(small_disk, model)
    first = save(checkpoints, model, 1)
    if seen == "while it is written":
        # as if someone else took the space after it had been looked at
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 40))
    needed = (small_disk / "attempt-0001" / "checkpoint-000001" / SLICES).stat().st_size
    with pytest.raises(TrainingError, match=rf"checkpoint-000002: the disk is full, .* needs {needed:,} bytes"):
        save(checkpoints, model, 2)
    assert not meeting.is_asked(), "the next run in this process is not to stop"
    assert names(small_disk) == ["attempt-0001/checkpoint-000001"]
    other = make_model(width=1000)
    assert begin(small_disk, other)[1] == 1
    assert_equal(vectors(other), first)
