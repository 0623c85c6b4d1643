"""`verify` finds each kind of damage, and `inspect` counts right."""

import dataclasses
import hashlib
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from erasediff.launch.shards import Inspect, Verify
from erasediff.shards import DataError, Dataset, build, split
from erasediff.shards.checking.inspect import contact_sheet, summarise
from erasediff.shards.checking.verify import verify
from erasediff.shards.format.manifest import read_manifest, write_manifest
from erasediff.shards.writing.assemble import complete
from PIL import Image


@pytest.fixture
def pets(pictures: Path, tmp_path: Path) -> Path:
    return build(pictures, tmp_path / "pets", name="pets", max_shard_samples=5).path


def change(path: Path, function: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    function(data)
    path.write_bytes(data)


def accept_shards(folder: Path) -> None:
    """Record the shards' sizes and hashes as they are now, as someone would who covers up a change."""
    manifest = read_manifest(folder)
    shards = []
    for shard in manifest.shards:
        data = (folder / shard.path).read_bytes()
        shards.append(dataclasses.replace(shard, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    write_manifest(folder, dataclasses.replace(manifest, shards=tuple(shards)))


def accept_index(folder: Path, index: np.ndarray) -> None:
    """Record another index as right."""
    old = read_manifest(folder)
    np.save(folder / "index.npy", index)
    complete(folder, name=old.name, classes=old.classes, image=old.image, index=index, shards=old.shards)


def test_nothing_is_wrong_with_what_we_make(digits: Dataset, pets: Path, tmp_path: Path) -> None:
    assert verify(digits.path) == []
    split(pets, tmp_path / "cut", ["dog"])
    split(pets, tmp_path / "purged", ["dog"], rewrite=True)
    assert verify(tmp_path / "cut") == []
    assert verify(tmp_path / "purged") == []
    Verify(tmp_path / "cut").run()


def test_truncated(pets: Path) -> None:
    change(pets / "pets-000001.tar", lambda data: data.__delitem__(slice(-512, None)))
    (problem,) = verify(pets)
    assert "pets-000001.tar: truncated" in problem
    accept_shards(pets)
    assert verify(pets) == []  # still a whole archive: only padding was missing
    change(pets / "pets-000001.tar", lambda data: data.__delitem__(slice(1000, None)))
    accept_shards(pets)
    assert any("pets-000001.tar" in line and "truncated" in line for line in verify(pets))


def test_trailing_bytes(pets: Path) -> None:
    change(pets / "pets-000000.tar", lambda data: data.extend(b"x" * 512))
    (problem,) = verify(pets)
    assert "pets-000000.tar: longer than it was" in problem
    accept_shards(pets)
    (problem,) = verify(pets)
    assert "pets-000000.tar: trailing bytes" in problem


def test_one_flipped_bit(pets: Path) -> None:
    dataset = Dataset.open(pets)
    middle = int(dataset.index["offset"][0]) + int(dataset.index["length"][0]) // 2

    def flip(data: bytearray) -> None:
        data[middle] ^= 1

    change(pets / "pets-000000.tar", flip)
    problems = verify(pets, decode=False)
    assert len(problems) == 2
    assert "SHA-256" in problems[0]
    assert f"sample {dataset.key(0)!r}: content hash" in problems[1]


def test_undecodable_sample(pets: Path) -> None:
    dataset = Dataset.open(pets)
    offset = int(dataset.index["offset"][2])

    def spoil(data: bytearray) -> None:
        data[offset : offset + 8] = b"nonsense"

    change(pets / "pets-000000.tar", spoil)
    assert any(f"sample {dataset.key(2)!r}: cannot be decoded" in line for line in verify(pets))


def test_index_out_of_date(pets: Path) -> None:
    index = np.load(pets / "index.npy")
    changed = index.copy()
    changed["label"][3] = (changed["label"][3] + 1) % 3
    np.save(pets / "index.npy", changed)
    assert "index.npy: index out of date: its SHA-256" in verify(pets)[0]
    accept_index(pets, changed)
    (problem,) = verify(pets)
    assert "cls not where the index says" in problem

    changed = index.copy()
    changed["offset"][1] += 512
    accept_index(pets, changed)
    (problem,) = verify(pets)
    assert "content not where the index says" in problem

    changed = index.copy()
    changed["key"][1] = b"cat/new"
    accept_index(pets, changed)
    (problem,) = verify(pets)
    assert "'cat/new': not in the shard" in problem

    changed["key"][1] = changed["key"][0]
    accept_index(pets, changed)
    assert "several samples have one key" in verify(pets)[0]

    np.save(pets / "index.npy", index[:-1])
    assert "its rows are not those" in verify(pets)[0]
    (pets / "index.npy").unlink()
    assert "index.npy: missing" in verify(pets)[0]


def test_samples_added_to_or_removed_from_a_shard(pets: Path) -> None:
    dataset = Dataset.open(pets)
    tar = pets / "pets-000000.tar"
    with tarfile.open(tar, "a") as archive:
        info = tarfile.TarInfo("cat/extra.png")
        info.size = 3
        archive.addfile(info, (Path(dataset.path) / "dataset.json").open("rb"))
    accept_shards(pets)
    (problem,) = verify(pets)
    assert "index out of date: 6 samples, 5 + 0 excluded expected" in problem
    # a member renamed: the content is missing
    name = f"{dataset.key(0)}.{dataset.extension(0)}".encode()

    def rename(data: bytearray) -> None:
        start = data.index(name)
        header = tarfile.TarInfo.frombuf(bytes(data[start : start + 512]), "utf-8", "strict")
        header.name = header.name.replace(".", "-gone.", 1)
        data[start : start + 512] = header.tobuf(tarfile.USTAR_FORMAT)

    change(tar, rename)
    accept_shards(pets)
    assert any("not where the index says" in line or "not in the shard" in line for line in verify(pets))


def test_leaks_between_the_sets(pets: Path, tmp_path: Path) -> None:
    split(pets, tmp_path / "cut", ["dog"])
    shutil.rmtree(tmp_path / "cut" / "remain")
    split(pets, tmp_path / "other", ["cat"])
    shutil.copytree(tmp_path / "other" / "remain", tmp_path / "cut" / "remain")
    (problem,) = verify(tmp_path / "cut")
    assert "share keys: dog/" in problem


def test_the_command_fails_and_prints(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pets / "pets-000001.tar").unlink()
    with pytest.raises(DataError, match="1 problem"):
        Verify(pets).run()
    assert "pets-000001.tar: shard missing" in capsys.readouterr().out
    with pytest.raises(DataError, match="no such dataset folder"):
        Verify(pets / "nowhere").run()


def test_inspect(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, remain = split(pets, tmp_path / "cut", ["dog"])
    summary = summarise(remain)
    assert summary.label_counts == {"cat": 4, "dog": 0, "émeu": 2}
    assert (summary.num_samples, summary.num_excluded, summary.num_shards) == (6, 3, 2)
    lengths = [len(remain.read_bytes(i)) for i in range(6)]
    assert summary.content_bytes == sum(lengths)
    assert (summary.size_quantiles_bytes["min"], summary.size_quantiles_bytes["max"]) == (min(lengths), max(lengths))
    Inspect(remain.path, tmp_path / "sheet.png").run()
    printed = capsys.readouterr().out
    assert "6 samples in 2 shard(s) (3 more in them are excluded)" in printed
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (96 + 10 * 64, 2 * 64)
    with pytest.raises(DataError, match="cannot be written"):
        Inspect(remain.path, tmp_path / "nowhere" / "sheet.png").run()


def test_contact_sheet_shows_the_samples(digits: Dataset) -> None:
    pixels = np.asarray(contact_sheet(digits).convert("L"))
    assert pixels.shape == (640, 96 + 10 * 64)
    first_zero = digits.read(int(np.flatnonzero(digits.labels == 0)[0])).image[:, :, 0]
    tile = Image.fromarray(first_zero).resize((62, 62), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels[:62, 96:158], np.asarray(tile))
