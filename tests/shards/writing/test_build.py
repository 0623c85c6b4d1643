"""Sources → shards: what is stored, and that plain WebDataset reads it."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from erasediff.shards import DataError, Dataset, build, split
from PIL import Image
from sklearn.datasets import load_digits
from webdataset.compat import WebDataset


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_digits_hold_scikit_learns_pixels(digits: Dataset) -> None:
    images, labels = load_digits(return_X_y=True)
    assert digits.labels.dtype == np.int64
    np.testing.assert_array_equal(digits.labels, labels)
    assert digits.keys[42] == digits.read(42).key == "digit-00042"
    for i in range(0, len(digits), 50):
        sample = digits.read(i)
        assert sample.image.dtype == np.uint8
        # 0 ... 16 scaled to 8 bits and back is exact
        np.testing.assert_array_equal(np.rint(sample.image[:, :, 0] / 255 * 16), images[i].reshape(8, 8))
        assert sample.label == labels[i]


def test_plain_webdataset_reads_our_tars(digits: Dataset) -> None:
    tars = [str(digits.path / shard.path) for shard in digits.manifest.shards]
    assert len(tars) == 7
    seen = list(WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in seen] == digits.keys
    assert [int(sample["cls"]) for sample in seen] == digits.labels.tolist()
    assert [sample["png"] for sample in seen[::100]] == [digits.read_bytes(i) for i in range(0, len(digits), 100)]


def test_folder_keeps_the_original_bytes(pictures: Path, tmp_path: Path) -> None:
    dataset = build(pictures, tmp_path / "out")
    assert dataset.classes == ("cat", "dog", "émeu")
    assert len(dataset) == 9
    assert dataset.image_shape is None
    for i, key in enumerate(dataset.keys):
        file = pictures / f"{key}.{dataset.extension(i)}"
        assert dataset.read_bytes(i) == file.read_bytes()
        assert dataset.classes[dataset.labels[i]] == file.parent.name
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
        np.testing.assert_array_equal(dataset.read(i).image.squeeze(), pixels)


def test_zip_and_folder_of_the_same_files_give_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "pictures"), "zip", pictures)
    build(pictures, tmp_path / "a", max_shard_samples=2)
    build(tmp_path / "pictures.zip", tmp_path / "b", max_shard_samples=2)
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")


def test_fingerprint_ignores_shard_sizes_and_sees_a_label(pictures: Path, tmp_path: Path) -> None:
    whole = build(pictures, tmp_path / "a")
    parts = build(pictures, tmp_path / "b", max_shard_bytes=1)
    assert len(parts.manifest.shards) == len(parts) == 9
    assert whole.fingerprint == parts.fingerprint
    (pictures / "cat" / "0.png").rename(pictures / "dog" / "0a.png")
    assert build(pictures, tmp_path / "c").fingerprint != whole.fingerprint


def test_rotated_photographs_are_stored_as_they_are_and_read_upright(tmp_path: Path) -> None:
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.fromarray(np.rot90(upright)).save(tmp_path / "in" / "a" / "photo.png", exif=exif)
    sample = build(tmp_path / "in", tmp_path / "out").read(0)
    np.testing.assert_array_equal(sample.image, upright)


def test_system_litter_is_left_out(pictures: Path, tmp_path: Path) -> None:
    (pictures / "cat" / ".DS_Store").write_bytes(b"x")
    (pictures / "cat" / "Thumbs.db").write_bytes(b"x")
    (pictures / ".git").mkdir()
    assert len(build(pictures, tmp_path / "out")) == 9


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def png(mode: str = "L", size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "no images"),
        ({"a/1.png": png(), "a/notes.txt": b"hello"}, "'a/notes.txt' is not an image"),
        ({"a/1.png": b"hello"}, "a/1.png.*cannot be decoded"),
        ({"a/1.png": png("RGB", (64, 64))[:-40]}, "a/1.png.*cannot be decoded"),
        ({"a/1.png": png("I;16")}, "a/1.png.*mode I;16"),
        ({"1.png": png()}, "found '1.png'; expected class/name"),
        ({"../1.png": png()}, "found '../1.png'; expected class/name"),
        ({"a/b/1.png": png()}, "found 'a/b/1.png'; expected class/name"),
        ({"a/1.png": png(), "b/": b""}, "class 'b' has no image"),
        ({"a/1.png": png(), "a/1.jpg": png()}, "one key: a/1.jpg, a/1.png"),
    ],
)
def test_bad_zips_are_named_in_one_line_and_nothing_is_left(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    source = make_zip(tmp_path / "in.zip", members)
    with pytest.raises(DataError, match=message) as caught:
        build(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "in.zip", {"a/1.png": png("1", (8300, 8300))})
    with pytest.raises(DataError, match=r"a/1\.png"):
        build(source, tmp_path / "out")


def test_other_mistakes(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        build(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataError, match="not a readable zip"):
        build(tmp_path / "broken.zip", tmp_path / "out")
    with pytest.raises(DataError, match=r"unknown kind of file"):
        build(pictures / "cat" / "0.png", tmp_path / "out")
    (pictures / "fox").mkdir()
    with pytest.raises(DataError, match="class 'fox' has no image"):
        build(pictures, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="exists already"):
        build("digits", pictures)


@pytest.mark.parametrize("name", ["", "../up", "/tmp/up", "a/b", "a\0"])
def test_a_name_that_leads_out_of_the_folder(pictures: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"^name: .*; expected a name without slashes"):
        build(pictures, tmp_path / "sub" / "out", name=name)
    manifest = build(pictures, tmp_path / "out").path / "dataset.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"name": name}))
    with pytest.raises(DataError, match=r"dataset\.json: name: .*; expected a name without slashes"):
        split(tmp_path / "out", tmp_path / "cut", ["cat"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pictures"]


def test_an_output_among_the_pictures(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"out: lies in the source, of which the next build would take it for a part"):
        build(pictures, pictures / "out")
    (tmp_path / "link").symlink_to(pictures)
    with pytest.raises(DataError, match="lies in the source"):
        build(pictures, tmp_path / "link" / "out")
    assert not (pictures / "out").exists()


def test_a_folder_gives_its_whole_name(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = pictures.rename(tmp_path / "pets-1.2")
    assert build(pictures, tmp_path / "a").name == "pets-1.2"
    monkeypatch.chdir(pictures)
    assert build(".", tmp_path / "b").name == "pets-1.2"


def test_names_that_are_not_utf8(pictures: Path, tmp_path: Path) -> None:
    (pictures / "cat" / os.fsdecode(b"\xff.png")).write_bytes(png())
    with pytest.raises(DataError, match=r"'cat/.udcff.png': name or key is not UTF-8 text; rename it"):
        build(pictures, tmp_path / "out")


def test_what_cannot_be_read_is_named_and_not_left_out(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "cat" / "3.png").rename(pictures / "cat" / "locked.png")
    read_bytes, scandir = Path.read_bytes, os.scandir

    def refuse(path: Path) -> bytes:
        if path.name == "locked.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    def refuse_folder(path: str) -> Any:
        if str(path).endswith(locked):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(DataError, match=r"^[^ ]*/cat/locked\.png: cannot be read \(Permission denied\)"):
            build(pictures, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse_folder)
        locked = "dog"
        with pytest.raises(DataError, match=r"^[^ ]*/dog: cannot be read \(Permission denied\)"):
            build(pictures, tmp_path / "out")
        (pictures / ".Trashes").mkdir()
        locked = ".Trashes"
        assert len(build(pictures, tmp_path / "out")) == 9


def test_pipes_are_not_waited_for(pictures: Path, tmp_path: Path) -> None:
    out = build(pictures, tmp_path / "out", name="pets").path
    (out / "pets-000000.tar").unlink()
    os.mkfifo(out / "pets-000000.tar")
    with pytest.raises(DataError, match=r"pets-000000\.tar: not a regular file"):
        Dataset.open(out)
    for name in ("index.npy", "dataset.json"):
        (out / name).unlink()
        os.mkfifo(out / name)
        with pytest.raises(DataError, match=f"{name}: not a regular file"):
            Dataset.open(out)
    os.mkfifo(pictures / "cat" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: not a regular file"):
        build(pictures, tmp_path / "again")
    (pictures / "t.csv").write_text("path\ncat/pipe.png\n")
    with pytest.raises(DataError, match=r"row 1: .*pipe\.png' is not a regular file"):
        build(pictures / "t.csv", tmp_path / "again")


def test_the_number_of_workers_changes_nothing(pictures: Path, tmp_path: Path) -> None:
    for num_workers in (1, 2, 7):
        build(pictures, tmp_path / f"{num_workers}", name="pets", max_shard_samples=2, num_workers=num_workers)
    one = folder_bytes(tmp_path / "1")
    assert folder_bytes(tmp_path / "2") == folder_bytes(tmp_path / "7") == one


def test_open_sees_what_is_missing_or_truncated(pictures: Path, tmp_path: Path) -> None:
    out = build(pictures, tmp_path / "out", name="pets").path
    tar = out / "pets-000000.tar"
    data = tar.read_bytes()

    tar.write_bytes(data[:-1])
    with pytest.raises(DataError, match=r"pets-000000\.tar: truncated"):
        Dataset.open(out)
    tar.unlink()
    with pytest.raises(DataError, match=r"pets-000000\.tar: shard missing"):
        Dataset.open(out)
    tar.write_bytes(data)

    index = np.load(out / "index.npy")
    np.save(out / "index.npy", index[:-1])
    with pytest.raises(DataError, match=r"index\.npy.*out of date"):
        Dataset.open(out)
    (out / "index.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"index\.npy"):
        Dataset.open(out)
    np.save(out / "index.npy", index)
    Dataset.open(out)

    manifest = json.loads((out / "dataset.json").read_text())
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"surprise": 1}, "surprise"),
        ({"num_samples": 0}, "num_samples"),
        ({"shards": [manifest["shards"][0] | {"num_samples": num} for num in (12, -3)]}, r"shards\.1\.num_samples"),
        ({"image": {"height": 10**9, "width": 10**9, "channels": 3}}, "image"),
        ({"image": {"height": 1, "width": 1, "channels": 2}}, "image"),
    ]
    for change, field in wrong:
        (out / "dataset.json").write_text(json.dumps(manifest | change))
        with pytest.raises(DataError, match=rf"dataset\.json: {field}"):
            Dataset.open(out)
    with pytest.raises(DataError, match="no such dataset folder"):
        Dataset.open(tmp_path / "nowhere")


def test_import_does_not_need_torch() -> None:
    code = (
        "import sys, erasediff.shards, erasediff.launch.shards; "
        "sys.exit(bool({'torch', 'webdataset', 'sklearn'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_more_shards_than_a_process_may_open_files(tmp_path: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); from erasediff.shards import *\n"
        "dataset = build('digits', sys.argv[1], max_shard_samples=10, num_workers=2)\n"
        "for b in range(6): Stream(dataset, seed=0, batch_size=300).batch(b)\n"
        "split(dataset, sys.argv[2], ['3'], rewrite=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out"), str(tmp_path / "cut")]
    subprocess.run(command, check=True)
    assert len(Dataset.open(tmp_path / "out").manifest.shards) == 180
