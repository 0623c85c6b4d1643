"""A dataset's copy on a nearer disk: verified, made once, read in place of the folder that it stands for."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from erasediff.shards import DataError, Dataset, split
from erasediff.shards.format.staging import stage, staged


@pytest.fixture
def far(digits: Dataset, tmp_path: Path) -> Path:
    shutil.copytree(digits.path, tmp_path / "far")
    return tmp_path / "far"


def test_the_copy_is_read_under_the_folders_name(
    far: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name, value), *_ = staged([far], tmp_path / "near").items()
    for shard in far.glob("*.tar"):
        shard.unlink()
    with pytest.raises(DataError):
        Dataset.open(far)
    monkeypatch.setenv(name, value)
    data = Dataset.open(far)
    assert data.path == far and data.fingerprint == digits.fingerprint
    for row in range(0, len(digits), 20):
        assert (data.read(row).image == digits.read(row).image).all()
    assert data.files.num_bytes_read == int(digits.index["length"][::20].sum())


def test_a_split_is_staged_with_the_shards_it_shares(digits: Dataset, tmp_path: Path) -> None:
    """Its own folder holds an index alone; nothing is written beside the copy."""
    shutil.copytree(digits.path, tmp_path / "far" / "data")
    split(tmp_path / "far" / "data", tmp_path / "far" / "split", ["3"])
    (tmp_path / "link").symlink_to(tmp_path / "far" / "split" / "remain")
    remain = tmp_path / "near" / ".." / "link"
    (tmp_path / "near").mkdir()
    copy = stage(remain, tmp_path / "near" / "disk")
    whole = Dataset.open(remain)
    keys = [whole.read(row).key for row in range(0, len(whole), 50)]
    shutil.rmtree(tmp_path / "far")
    data = Dataset.open(copy)
    assert [data.read(row).key for row in range(0, len(data), 50)] == keys
    assert [path.name for path in (tmp_path / "near").iterdir()] == ["disk"]


def test_it_is_made_once(far: Path, tmp_path: Path) -> None:
    copy = stage(far, tmp_path / "near")
    shard = min(copy.glob("*.tar"))
    made = shard.stat()
    assert stage(far, tmp_path / "near") == copy
    assert shard.stat().st_mtime_ns == made.st_mtime_ns and shard.stat().st_ino == made.st_ino


def test_a_split_made_afterwards_reads_the_copy_of_the_shards_it_points_into(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an erasure makes it: of data that are staged, on a file system that all nodes share."""
    (name, value), *_ = staged([far], tmp_path / "near").items()
    monkeypatch.setenv(name, value)
    _, remain = split(far, tmp_path / "split", ["3"])
    assert (remain.path / remain.manifest.shards[0].path).resolve().parent == far
    forget_keys = {Dataset.open(tmp_path / "split" / "forget").read(0).key}
    for path in far.glob("*.tar"):
        path.unlink()
    data = Dataset.open(tmp_path / "split" / "remain")
    assert data.read(len(data) - 1).key not in forget_keys


def test_a_copy_from_which_files_were_taken_is_made_anew(far: Path, tmp_path: Path) -> None:
    copy = stage(far, tmp_path / "near")
    shard = min(copy.glob("*.tar"))
    content = shard.read_bytes()
    shard.unlink()
    assert stage(far, tmp_path / "near") == copy and shard.read_bytes() == content
    with shard.open("ab") as file:
        file.truncate(100)
    assert stage(far, tmp_path / "near") == copy and shard.read_bytes() == content


@pytest.mark.parametrize("name", ["digits-000000.tar", "index.npy"])
def test_a_file_that_is_not_as_it_was_built_is_named(far: Path, tmp_path: Path, name: str) -> None:
    content = bytearray((far / name).read_bytes())
    content[len(content) // 2] ^= 1
    (far / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is not what dataset.json says"):
        stage(far, tmp_path / "near")
    assert not [path for path in (tmp_path / "near").iterdir() if not path.name.endswith((".lock", ".partial"))]


def test_what_an_interrupted_copy_left_does_not_take_the_next_ones_room(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that holds the data once and a half."""
    near = tmp_path / "near"
    size = sum(path.stat().st_size for path in far.iterdir())

    def free(place: Path) -> SimpleNamespace:
        used = sum(path.stat().st_size for path in near.rglob("*") if path.is_file())
        return SimpleNamespace(free=1.5 * size - used)

    monkeypatch.setattr(shutil, "disk_usage", free)
    copy = stage(far, near)
    copy.rename(copy.with_name(f"{copy.name}.partial"))
    assert stage(far, near) == copy
    with pytest.raises(DataError, match="are free: name another folder"):
        stage(far, tmp_path / "near" / "below")


def test_two_folders_that_hold_the_same_split_have_a_copy_each(digits: Dataset, tmp_path: Path) -> None:
    """A job that reads the one is not left without files by a job that stages the other."""
    shutil.copytree(digits.path, tmp_path / "far" / "data")
    for name in ("a", "b"):
        split(tmp_path / "far" / "data", tmp_path / "far" / name, ["3"])
    folders = [tmp_path / "far" / name / "remain" for name in ("a", "b")]
    copies = [stage(folder, tmp_path / "near") for folder in folders]
    assert len(set(copies)) == 2
    for copy in copies:
        data = Dataset.open(copy)
        assert data.read(len(data) - 1).image.shape == (8, 8, 1)


def test_a_split_within_staged_data_reads_its_own_shards(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name, value), *_ = staged([far], tmp_path / "near").items()
    monkeypatch.setenv(name, value)
    forget, remain = split(far, far / "sets", ["3"])
    assert forget.read(0).label == 3 and remain.read(0).label != 3
