"""Checkpoints in one process: across stages, damaged, foreign."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_cases import NO_SKIP, SLICES, advance, assert_equal, begin, make_model, names, save, vectors
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError, TrainingError
from safetensors.torch import load_file
from torch import nn


@pytest.mark.parametrize(("written", "read"), [(2, 3), (3, 1), (1, 2)])
def test_a_checkpoint_is_read_at_another_stage(tmp_path: Path, written: int, read: int) -> None:
    model = make_model(written)
    checkpoints, _ = begin(tmp_path, model)
    advance(model, range(2))
    saved = save(checkpoints, model, 3)
    assert {name.partition("/")[0] for name in saved} == {"theta", "exp_avg", "exp_avg_sq", "ema"}
    other = make_model(read)
    assert begin(tmp_path, other)[1] == 3
    assert_equal(vectors(other), saved)
    assert other.optimizer.num_updates() == 3


def test_the_state_is_that_of_the_call_whatever_follows(tmp_path: Path) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model)
    advance(model, range(3))
    before = vectors(model)
    checkpoints.save(model, 3)
    advance(model, range(3, 6))
    checkpoints.wait()
    other = make_model()
    begin(tmp_path, other)
    assert_equal(vectors(other), before)


def test_the_files_are_plain_safetensors_with_the_hashes_of_the_manifest(tmp_path: Path) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model)
    save(checkpoints, model, 1)
    folder = tmp_path / "attempt-0001" / "checkpoint-000001"
    stored = load_file(folder / SLICES)
    assert torch.equal(stored["theta/second.bias@0"], model.gather(model.theta)["second.bias"])
    manifest = json.loads((folder / "manifest.json").read_text())
    state = manifest["state"]
    assert 0 < manifest["seconds"] < 60
    found = hashlib.sha256((folder / SLICES).read_bytes()).hexdigest()
    assert state["files"][SLICES]["sha256"] == found


def test_the_newest_are_kept_whichever_attempt_made_them(tmp_path: Path) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model)
    for step in (1, 2, 3):
        save(checkpoints, model, step)
    assert names(tmp_path) == ["attempt-0001/checkpoint-000002", "attempt-0001/checkpoint-000003"]
    checkpoints, first_step = begin(tmp_path, model)
    assert first_step == 3
    save(checkpoints, model, 4)
    assert names(tmp_path) == ["attempt-0001/checkpoint-000003", "attempt-0002/checkpoint-000004"]


def _truncate(folder: Path) -> None:
    path = folder / SLICES
    path.write_bytes(path.read_bytes()[:-40])


def _flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / SLICES).read_bytes())
    data[-7] ^= 4
    (folder / SLICES).write_bytes(data)


def _remove(folder: Path) -> None:
    (folder / SLICES).unlink()


def _change_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"num_updates": 2', '"num_updates": 7'))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (_truncate, "bytes of"),
        (_flip_a_bit, f"{SLICES} is not as it was written"),
        (_remove, f"{SLICES} is missing"),
        (_change_the_manifest, "manifest.json is not as it was written"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], what: str
) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model)
    first = save(checkpoints, model, 1)
    save(checkpoints, model, 2)
    damage(tmp_path / "attempt-0001" / "checkpoint-000002")
    other = make_model()
    checkpoints, first_step = begin(tmp_path, other, keep=1)
    assert first_step == 1
    assert_equal(vectors(other), first)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "checkpoint-000002 is damaged" in said[0]
    assert what in said[0]
    # what was passed over is never taken for one of the newest
    save(checkpoints, other, 2)
    assert names(tmp_path) == ["attempt-0002/checkpoint-000002"]
    assert begin(tmp_path, make_model())[1] == 2


def test_where_the_only_one_is_damaged_the_run_begins_again_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model()
    save(begin(tmp_path, model)[0], model, 1)
    _remove(tmp_path / "attempt-0001" / "checkpoint-000001")
    assert begin(tmp_path, make_model())[1] == 0
    said = capsys.readouterr().err
    assert said.endswith(f"({SLICES} is missing); there is none before it: the run begins again\n")


def _lead_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(("name", "spoil"), [(SLICES, _lead_to_itself), ("manifest.json", Path.mkdir)])
def test_a_checkpoint_that_the_disk_does_not_let_be_read_is_not_damaged(
    tmp_path: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model)
    save(checkpoints, model, 1)
    save(checkpoints, model, 2)
    file = tmp_path / "attempt-0001" / "checkpoint-000002" / name
    kept = file.rename(tmp_path / "kept")
    spoil(file)
    with pytest.raises(TrainingError, match=rf"checkpoint-000002/{name} cannot be read: .*; once it can, the same"):
        begin(tmp_path, make_model())
    file.rename(tmp_path / "spoilt")
    kept.rename(file)
    assert begin(tmp_path, make_model())[1] == 2


def test_a_checkpoint_without_its_attempts_manifest_is_not_passed_over(tmp_path: Path) -> None:
    model = make_model()
    save(begin(tmp_path, model)[0], model, 1)
    kept = (tmp_path / "attempt-0001" / "attempt.json").rename(tmp_path / "kept")
    with pytest.raises(ConfigError, match=r"attempt-0001/attempt.json is missing, and a checkpoint is beside it: put"):
        begin(tmp_path, make_model())
    assert names(tmp_path) == ["attempt-0001/checkpoint-000001"]
    kept.rename(tmp_path / "attempt-0001" / "attempt.json")
    assert begin(tmp_path, make_model())[1] == 1


def test_another_runs_checkpoint_is_refused_with_what_differs(tmp_path: Path) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model)
    save(checkpoints, model, 1)
    with pytest.raises(ConfigError) as error:
        begin(tmp_path, model, **{"train.seed": 5, "samples of forget": "ab"})
    assert "train.seed = 0 there, 5 here" in str(error.value)
    assert "samples of forget = None there, 'ab' here" in str(error.value)


def test_a_setting_that_the_writer_did_not_know_may_have_its_default(tmp_path: Path) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model)
    save(checkpoints, model, 1)
    assert begin(tmp_path, model, **{"train.new": 3})[1] == 1


def test_the_newest_is_that_of_the_most_steps_and_a_persons_copy_is_let_be(tmp_path: Path) -> None:
    model = make_model()
    checkpoints, _ = begin(tmp_path, model, keep=1)
    checkpoints.save(model, 999_999)
    checkpoints.wait()
    attempt = tmp_path / "attempt-0001"
    shutil.copytree(attempt / "checkpoint-999999", attempt / "checkpoint-999999-backup")
    checkpoints.save(model, 1_000_000)
    checkpoints.wait()
    assert names(tmp_path) == ["attempt-0001/checkpoint-1000000", "attempt-0001/checkpoint-999999-backup"]
    assert begin(tmp_path, make_model())[1] == 1_000_000


def test_updates_that_were_skipped_are_not_counted_after_a_restart(tmp_path: Path) -> None:
    """Adam's bias correction is by updates: against torch's Adam, which never heard of the skipped step."""
    model = make_model()
    checkpoints, _ = begin(tmp_path, model)
    parameter = nn.Parameter(model.theta.data.double())
    adam = torch.optim.AdamW([parameter], lr=1e-4, weight_decay=0.0)

    def advance_both(model: ShardedModel, step: int, skip: bool) -> None:
        delta = model.theta.clone()
        parameter.grad = delta.data.double()
        model.step(delta, step, NO_SKIP + skip)
        if not skip:
            adam.step()

    for step, skip in enumerate((False, True, False)):
        advance_both(model, step, skip)
    checkpoints.save(model, 3)
    checkpoints.wait()
    other = make_model()
    assert begin(tmp_path, other)[1] == 3
    assert other.optimizer.num_updates() == 2
    before = parameter.detach().clone()
    advance_both(other, 3, False)
    moved = parameter.detach() - before
    assert (other.theta.data.double() - parameter).norm() < 1e-3 * moved.norm()
