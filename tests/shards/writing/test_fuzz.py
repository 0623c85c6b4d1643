"""Whatever the bytes, the readers of tars, indexes, manifests, requests and images give data or our own error."""

import contextlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import DataError, Dataset, Stream, build
from erasediff.shards.format.images import decode, image_header_shape
from erasediff.shards.format.tar_reader import read_samples
from erasediff.shards.requests.expression import parse_comparison
from erasediff.shards.requests.request import parse_request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small_tar(layout: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as tar:
        for name in ("a.png", "a.cls", f"{'long/' * 40}é.json" if layout != tarfile.USTAR_FORMAT else "b.json"):
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"12345"))
    return buffer.getvalue()


TARS = [small_tar(layout) for layout in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A valid file with some bytes overwritten, inserted or cut off."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        patch = draw(
            st.one_of(st.binary(min_size=1, max_size=16), st.sampled_from([b"\x80" + b"\xff" * 11, b"7" * 12]))
        )
        change = draw(st.sampled_from(["overwrite", "overwrite", "overwrite", "insert", "cut"]))
        if change == "overwrite":
            data[at : at + len(patch)] = patch
        elif change == "insert":
            data[at:at] = patch
        else:
            del data[at:]
    return bytes(data)


@st.composite
def tar_headers(draw: st.DrawFn) -> bytes:
    """Tars with correct checksums and odd contents: types, names, sizes, pax records."""
    data = b""
    for _ in range(draw(st.integers(1, 4))):
        info = tarfile.TarInfo(
            draw(st.text("ab./é\\:", min_size=1, max_size=20)) + draw(st.sampled_from(["", ".png", ".pkl"]))
        )
        info.type = draw(st.sampled_from([bytes([kind]) for kind in b"01234567xgLKSV\0z"]))
        info.size = draw(st.one_of(st.integers(0, 2000), st.integers(0, 2**40)))
        with contextlib.suppress(ValueError, UnicodeError):
            data += info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
            data += draw(st.binary(max_size=40)).ljust(512, b"\0")
    return data + bytes(draw(st.sampled_from([0, 512, 1024])))


@FUZZ
@given(data=st.one_of(damaged(TARS), tar_headers(), st.binary(max_size=2000)))
def test_tars(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with contextlib.suppress(DataError):
        for sample in read_samples(path):
            for member in sample.members.values():
                assert 0 <= member.offset <= member.offset + member.length <= len(data)
                assert ".." not in member.name.split("/")
                assert not member.name.startswith("/")


@FUZZ
@given(data=st.one_of(damaged(TARS), tar_headers()))
def test_building_from_tars(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    with contextlib.suppress(DataError):
        build(tmp_path / "a.tar", tmp_path / "out")
    assert not (tmp_path / ".out.partial").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "in" / "a").mkdir(parents=True)
    for i in range(3):
        Image.new("L", (3, 3), i).save(folder / "in" / "a" / f"{i}.png")
    return build(folder / "in", folder / "out").path


@settings(FUZZ, max_examples=200)
@given(data=st.data())
def test_indexes(small: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small, folder, dirs_exist_ok=True)
    (folder / "index.npy").write_bytes(data.draw(damaged([(small / "index.npy").read_bytes()])))
    read_what_can_be_read(folder)


@settings(FUZZ, max_examples=200)
@given(data=st.data())
def test_manifests(small: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small, folder, dirs_exist_ok=True)
    original = (small / "dataset.json").read_bytes()
    fields = json.loads(original)
    name = data.draw(st.sampled_from(sorted(fields)))
    odd = st.one_of(st.none(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=3), st.just({}))
    mutated = json.dumps(fields | {name: data.draw(odd)}).encode()
    (folder / "dataset.json").write_bytes(data.draw(st.one_of(st.just(mutated), damaged([original]))))
    read_what_can_be_read(folder)


def read_what_can_be_read(folder: Path) -> None:
    with contextlib.suppress(DataError):
        dataset = Dataset.open(folder)
        for i in range(len(dataset)):
            with contextlib.suppress(DataError):
                dataset.read(i)
            with contextlib.suppress(DataError):
                dataset.metadata(i)
        Stream(dataset, seed=0, batch_size=4, image_size=2, on_bad_sample="skip").batch(0)


REQUESTS = [
    b'id = "1"\ndate = 2026-11-21\n[[selectors]]\nkeys = ["a"]\nmetadata = ["x > 1"]\n',
    b'{"selectors": [{"labels": [1, "b"], "captions": ["*a*"]}], "date": "2026-11-21"}',
]


@FUZZ
@given(
    text=st.one_of(st.text(max_size=200), damaged(REQUESTS).map(lambda data: data.decode(errors="replace"))),
    suffix=st.sampled_from([".toml", ".json"]),
)
def test_requests(text: str, suffix: str) -> None:
    with contextlib.suppress(DataError):
        parse_request(text, Path(f"request{suffix}"))


@FUZZ
@given(st.one_of(st.text(max_size=60), st.text("abc.<=>!\"'0123456789[]{}()_ \n", max_size=60)))
def test_comparisons(text: str) -> None:
    with contextlib.suppress(DataError):
        parse_comparison(text).holds({"a": 1, "b": "text", "c": None})


def picture(extension: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, extension)
    return buffer.getvalue()


PICTURES = [
    picture("PNG", "RGB"),
    picture("PNG", "P"),
    picture("JPEG", "L"),
    picture("JPEG", "RGB"),
    picture("WEBP", "RGB"),
]


@FUZZ
@given(data=st.one_of(damaged(PICTURES), st.binary(max_size=100)))
def test_images(data: bytes) -> None:
    with contextlib.suppress(DataError):
        pixels = decode(data, "here")
        assert pixels.dtype == np.uint8
        assert image_header_shape(data, "here") == pixels.shape
