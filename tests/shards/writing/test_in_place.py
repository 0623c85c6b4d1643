"""Tars that others wrote: read in place, whatever wrote them, or refused by name."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import DataError, Dataset, Stream, build, split
from PIL import Image
from webdataset.writer import ShardWriter


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.type = kind
    info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    tar.addfile(info, io.BytesIO(data))


def test_shard_writer_tars(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    with ShardWriter(f"{tmp_path}/tars/%05d.tar", maxcount=4, verbose=0) as writer:
        for i in range(10):
            sample = {"__key__": f"s{i:03d}", "png": png(i), "cls": i % 3, "txt": f"number {i}", "json": {"n": i}}
            writer.write(sample)
    before = {file.name: file.read_bytes() for file in (tmp_path / "tars").iterdir()}
    dataset = build(tmp_path / "tars", tmp_path / "out")
    assert {file.name: file.read_bytes() for file in (tmp_path / "tars").iterdir()} == before
    assert sorted(file.name for file in dataset.path.iterdir()) == ["README.md", "dataset.json", "index.npy"]
    assert len(dataset.manifest.shards) == 3
    assert dataset.classes == ("0", "1", "2")
    assert dataset.keys == [f"s{i:03d}" for i in range(10)]
    for i in range(10):
        sample = dataset.read(i)
        assert (sample.image == i).all()
        assert (sample.label, sample.text, dataset.metadata(i)) == (i % 3, f"number {i}", {"n": i})
    forget, remain = split(dataset, tmp_path / "cut", ["1"])
    assert forget.keys == ["s001", "s004", "s007"]
    assert (forget.text(1), forget.metadata(1)) == ("number 4", {"n": 4})
    assert len(Stream(remain, seed=0, batch_size=7).batch(0).keys) == 7


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_format_of_pythons_tarfile(tmp_path: Path, layout: int) -> None:
    long = "/".join(["folder" * 10] * (2 if layout == tarfile.USTAR_FORMAT else 5)) + "/äöü" * (
        layout != tarfile.USTAR_FORMAT
    )
    with tarfile.open(tmp_path / "a.tar", "w", format=layout) as tar:
        add(tar, "plain.PNG", png(1))
        add(tar, f"{long}.png", png(2))
        add(tar, f"{long}.notes.txt", b"kept out of the way")
    dataset = build(tmp_path / "a.tar", tmp_path / "out")
    assert dataset.keys == ["plain", long]
    assert (dataset.read(1).image == 2).all()


@pytest.mark.parametrize("layout", ["ustar", "pax", "gnu"])
def test_gnu_tar(tmp_path: Path, layout: str) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for i in range(3):
        (files / f"{i}{'x' * (40 if layout == 'ustar' else 150)}.png").write_bytes(png(i))
    command = ["tar", f"--format={layout}", "--sort=name", "-C", str(files), "-cf", str(tmp_path / "a.tar"), "."]
    subprocess.run(command, check=True)
    dataset = build(tmp_path / "a.tar", tmp_path / "out")
    assert [int(dataset.read(i).image[0, 0, 0]) for i in range(3)] == [0, 1, 2]
    assert dataset.keys[0].startswith("0x")


def test_img2datasets_layout(tmp_path: Path) -> None:
    # as its documentation has it: 00000.tar with key.jpg, key.txt, key.json; 00000.parquet; 00000_stats.json
    folder = tmp_path / "laion"
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(3):
                key = f"{shard:05d}{i:04d}"
                image = io.BytesIO()
                Image.new("RGB", (8, 8), (shard, i, 0)).save(image, "JPEG")
                add(tar, f"{key}.jpg", image.getvalue())
                add(tar, f"{key}.json", json.dumps({"url": "https://example.org", "status": "success"}).encode())
                add(tar, f"{key}.txt", f"caption {key}".encode())
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    dataset = build(folder, tmp_path / "out")
    assert (len(dataset), dataset.name, dataset.text(4)) == (6, "laion", "caption 000010001")
    assert dataset.image_shape is not None


def test_moved_tars_are_missed_and_found(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "a.tar", "w") as tar:
        add(tar, "a.png", png(1))
    build(tmp_path / "data" / "a.tar", tmp_path / "data" / "out")
    (tmp_path / "data").rename(tmp_path / "moved")
    assert Dataset.open(tmp_path / "moved" / "out").read(0).key == "a"
    (tmp_path / "moved" / "a.tar").unlink()
    with pytest.raises(DataError, match=r"a\.tar: shard missing"):
        Dataset.open(tmp_path / "moved" / "out")


BAD: dict[str, tuple[Callable[[tarfile.TarFile], None], str]] = {
    "pickle": (lambda tar: add(tar, "a.pkl", b"x"), r"'a\.pkl' is refused: loading it could run code"),
    "pickle after a dot": (lambda tar: add(tar, "a.png.PTH", b"x"), "is refused"),
    "compressed pickle": (lambda tar: add(tar, "a.pkl.gz", b"x"), "is refused"),
    "pyd": (lambda tar: add(tar, "a.pyd", b"x"), "is refused"),
    "absolute": (lambda tar: add(tar, "/etc/a.png", png(1)), "absolute or `..` name"),
    "parent": (lambda tar: add(tar, "a/../../b.png", png(1)), "absolute or `..` name"),
    "symlink": (lambda tar: add(tar, "a.png", b"", tarfile.SYMTYPE), "is a link, device"),
    "hard link": (lambda tar: add(tar, "a.png", b"", tarfile.LNKTYPE), "is a link, device"),
    "device": (lambda tar: add(tar, "a.png", b"", tarfile.CHRTYPE), "is a link, device"),
    "fifo": (lambda tar: add(tar, "a.png", b"", tarfile.FIFOTYPE), "is a link, device"),
    "no content": (lambda tar: add(tar, "a.txt", b"x"), "sample 'a' has no image or array"),
    "no extension": (lambda tar: add(tar, "README", b"x"), "no WebDataset name"),
    "twice": (lambda tar: (add(tar, "a.png", png(1)), add(tar, "a.png", png(1)))[0], "is there twice"),
    "class": (lambda tar: (add(tar, "a.png", png(1)), add(tar, "a.cls", b"cat"))[0], "expected a class number"),
    "not an image": (lambda tar: add(tar, "a.png", b"GIF89a"), r"a\.png.*cannot be decoded"),
    "one key apart": (
        lambda tar: (add(tar, "a.png", png(1)), add(tar, "b.png", png(2)), add(tar, "a.png", png(3)))[0],
        "several samples have one key: a;",
    ),
    "nothing": (lambda tar: None, "no sample in it"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    make, message = BAD[case]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        make(tar)
    with pytest.raises(DataError, match=message) as caught:
        build(tmp_path / "a.tar", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


def test_truncated_and_compressed_tars(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.png", png(1) + bytes(5000))
        add(tar, "b.png", png(2) + bytes(5000))
    whole = (tmp_path / "a.tar").read_bytes()
    for num_bytes in (100, 600, 3000, 6200, 8000):
        (tmp_path / "cut.tar").write_bytes(whole[:num_bytes])
        with pytest.raises(DataError, match=r"cut\.tar"):
            build(tmp_path / "cut.tar", tmp_path / "out")
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        add(tar, "a.png", png(1))
    with pytest.raises(DataError, match=r"z\.tar: not a readable uncompressed tar"):
        build(tmp_path / "z.tar", tmp_path / "out")


def test_a_tar_cut_between_members_and_one_with_more_after_its_end(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.png", png(1))
        add(tar, "b.png", png(2))
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:1024])
    with pytest.raises(DataError, match=r"cut\.tar: truncated archive: no end mark"):
        build(tmp_path / "cut.tar", tmp_path / "out")
    (tmp_path / "double.tar").write_bytes(whole + whole)
    with pytest.raises(DataError, match=r"double\.tar: trailing bytes"):
        build(tmp_path / "double.tar", tmp_path / "out")


def test_what_macos_leaves_beside_tars_and_what_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "tars"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        add(tar, "a.png", png(1))
    (folder / "._a.tar").write_bytes(b"\0\5\x16\7")
    assert build(folder, tmp_path / "out").keys == ["a"]
    os.mkfifo(folder / "b.tar")
    (folder / "c.tar").symlink_to("nowhere")
    for name in ("b.tar", "c.tar"):
        with pytest.raises(DataError, match=rf"{name}: not a regular file"):
            build(folder, tmp_path / "again")
        (folder / name).unlink()


@pytest.mark.parametrize("layout", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_name_of_megabytes_is_not_read(tmp_path: Path, layout: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=layout) as tar:
        add(tar, "a" * (1 << 21) + ".png", png(1))
    with pytest.raises(DataError, match=r"a\.tar: .*a name or header of more than 1,048,576 bytes"):
        build(tmp_path / "a.tar", tmp_path / "out")


@pytest.mark.parametrize("layout", ["gnu", "posix"])
def test_sparse_members(tmp_path: Path, layout: str) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(png(1))
        file.truncate(1 << 20)
    command = ["tar", f"--format={layout}", "--sparse", "-C", str(tmp_path), "-cf", str(tmp_path / "a.tar"), "a.png"]
    subprocess.run(command, check=True)
    with pytest.raises(DataError, match=r"a\.png' is a link, device or sparse file"):
        build(tmp_path / "a.tar", tmp_path / "out")


def test_which_of_two_pictures_is_meant_is_not_guessed(tmp_path: Path) -> None:
    """A photograph and its mask, say."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "one.jpg", png(1))
        add(tar, "one.png", png(2))
    with pytest.raises(DataError, match=r"a\.tar: sample 'one' has png, jpg, and which of them is meant nobody says"):
        build(tmp_path / "a.tar", tmp_path / "out")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        add(tar, "one.png", png(1))
        add(tar, "one.mask.png", png(2))
    assert (build(tmp_path / "b.tar", tmp_path / "out").read(0).image == 1).all()


def test_new_shards_lose_nothing_that_the_old_ones_hold(tmp_path: Path) -> None:
    """They may be deleted afterwards."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(3):
            add(tar, f"{i}.png", png(i))
            add(tar, f"{i}.cls", str(i).encode())
        add(tar, "2.depth.npy", b"something")
    data = build(tmp_path / "a.tar", tmp_path / "data")
    with pytest.raises(DataError, match=r"a\.tar: sample '2' has depth\.npy, which new shards would not have"):
        split(data, tmp_path / "cut", ["1"], rewrite=True)
    assert not (tmp_path / "cut").exists()
    assert len(split(data, tmp_path / "cut", ["1"])[1]) == 2


def test_sizes_of_shards_are_not_asked_of_tars_that_stay(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.png", png(0))
    for asked in (partial(build, max_shard_samples=1), partial(build, max_shard_bytes=1)):
        with pytest.raises(DataError, match="tars are indexed where they are; leave these out"):
            asked(tmp_path / "a.tar", tmp_path / "out")


def test_a_folder_means_one_thing(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(pictures / "backup.tar", "w") as tar:
        add(tar, "0.png", png(0))
    with pytest.raises(DataError, match=r"holds tars \(backup\.tar\) and folders of images \(cat\)"):
        build(pictures, tmp_path / "out")
    (pictures / "backup.tar").unlink()
    made = build(pictures, tmp_path / "out")
    with pytest.raises(DataError, match=r"is a dataset already \(dataset\.json\); use it as it is"):
        build(made.path, tmp_path / "again")
    # scikit-learn's, or a folder that is called so
    monkeypatch.chdir(tmp_path)
    pictures.rename("digits")
    with pytest.raises(DataError, match=r"write \./digits for the path"):
        build("digits", "other")
    assert build("./digits", "by-path").classes == made.classes
    assert build(Path("digits"), "by-path-too").classes == made.classes
