"""Existing WebDataset tars (img2dataset's too) → an index beside them; the tars are not rewritten."""

import hashlib
import os
from pathlib import Path

from ..dataset import Dataset
from ..errors import DataError, shorten
from ..format.arrays import check_array
from ..format.images import image_header_shape
from ..format.index import IMAGE_EXTENSIONS, NO_LABEL, Row, content_hash, make_index
from ..format.manifest import Shard
from ..format.shard_files import ShardFiles
from ..format.tar_reader import Member, TarSample, read_samples
from ..sources.source import name_of
from .assemble import assemble
from .jobs import Progress, StopFlag
from .parts import Part
from .staging import staged

MAX_LABEL = 1 << 20


class TarSource:
    """A `.tar`, or a folder whose `*.tar` are one dataset, as img2dataset writes it."""

    def __init__(self, path: Path) -> None:
        self.name = name_of(path)
        self.tars = [path] if path.is_file() else tars_in(path)
        for tar in self.tars:
            # opening a pipe or device could wait for ever
            if not tar.is_file():
                raise DataError(f"{tar}: not a regular file; remove it or copy the tar there")

    def stamp(self) -> str:
        """Names, sizes and times of the tars."""
        states = [(str(tar.resolve()), tar.stat().st_size, tar.stat().st_mtime_ns) for tar in self.tars]
        return hashlib.sha256(repr(states).encode()).hexdigest()


def tars_in(folder: Path) -> list[Path]:
    """The tars of a folder, in order, without what macOS leaves beside them (`._00000.tar`)."""
    return sorted(tar for tar in folder.glob("*.tar") if not tar.name.startswith("."))


def index_in_place(
    source: TarSource,
    output: Path,
    *,
    name: str,
    num_workers: int,
    classes: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Make the dataset folder `output`, which points to the tars by relative path.

    A sample is one image or array (`.png … .npy, .safetensors`) with `.cls` (a number), `.txt` and `.json` beside it;
    other members are left alone. `classes` names the numbers; None: each is its own name. Image headers are read here,
    pixels not until `verify` or the stream. Raises `DataError`.
    """

    def index_one(number: int, stop: StopFlag) -> Part:
        return _index_tar(source.tars[number], number, output, stop)

    with staged(output, f"{name} {source.stamp()}" + (f" {classes!r}" if classes else "")) as folder:
        assemble(
            folder, index_one, len(source.tars), name=name, classes=classes, num_workers=num_workers, progress=progress
        )
    return Dataset.open(output)


def _index_tar(tar: Path, number: int, output: Path, stop: StopFlag) -> Part:
    files = ShardFiles([tar], [tar.stat().st_size])
    rows: list[Row] = []
    shapes: set[tuple[int, ...]] = set()
    for sample in read_samples(tar):
        stop.check()
        extension, member = _content(tar, sample)
        data = _read(files, member)
        shapes.add(_shape(data, extension, f"{tar}: {member.name!r}"))
        rows.append(_row(tar, files, sample, data, extension, member))
    files.close()
    with tar.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    path = os.path.relpath(tar.resolve(), output.resolve())
    return Part(Shard(path, tar.stat().st_size, sha256, len(rows), 0), frozenset(shapes), make_index(rows, number))


def _content(tar: Path, sample: TarSample) -> tuple[str, Member]:
    contents = sample.contents
    if not contents:
        found = shorten(sample.members)
        raise DataError(f"{tar}: sample {sample.key!r} has no image or array (found {found}); build the tar without it")
    if len(contents) > 1:
        found = shorten(contents)
        raise DataError(
            f"{tar}: sample {sample.key!r} has {found}, and which of them is meant nobody says; build the tar with one "
            "of them (a mask may be called key.mask.png)"
        )
    ((extension, member),) = contents.items()
    return extension, member


def _row(tar: Path, files: ShardFiles, sample: TarSample, data: bytes, extension: str, member: Member) -> Row:
    text, meta = sample.members.get("txt"), sample.members.get("json")
    return Row(
        key=sample.key.encode(),
        offset=member.offset,
        length=member.length,
        extension=extension,
        label=_label(tar, files, sample),
        content_hash=content_hash(data),
        text_offset=text.offset if text else 0,
        text_length=text.length if text else 0,
        meta_offset=meta.offset if meta else 0,
        meta_length=meta.length if meta else 0,
    )


def _label(tar: Path, files: ShardFiles, sample: TarSample) -> int:
    member = sample.members.get("cls")
    if member is None:
        return NO_LABEL
    text = _read(files, member)[:32].strip()
    if not text.isdigit() or int(text) > MAX_LABEL:
        raise DataError(f"{tar}: {member.name!r} holds {text!r}; expected a class number from 0 to {MAX_LABEL:,}")
    return int(text)


def _read(files: ShardFiles, member: Member) -> bytes:
    return files.read(0, member.offset, member.length)


def _shape(data: bytes, extension: str, where: str) -> tuple[int, ...]:
    if extension in IMAGE_EXTENSIONS:
        return image_header_shape(data, where)
    check_array(data, extension, where)
    return ()
