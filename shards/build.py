"""Source → shards, index and `dataset.json`."""

import collections
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import Dataset
from .digits import Digits
from .errors import DataError, shorten
from .folder import ClassFolder, ClassZip
from .images import decode
from .index import EXTENSIONS, NO_LABEL, content_hash, fingerprint, make_index
from .manifest import FORMAT, INDEX_NAME, ImageShape, Manifest, Shard, write_manifest
from .source import Entry, Source
from .staging import staged
from .tar_writer import TarWriter

DEFAULT_MAX_SHARD_SAMPLES = 10_000
DEFAULT_MAX_SHARD_BYTES = 1 << 30


@dataclass(frozen=True)
class WrittenShard:
    """A finished tar and its samples."""

    shard: Shard
    rows: list[tuple]
    shapes: frozenset[tuple[int, int, int]]


def build(
    source: str | Path | Source,
    output: str | Path,
    *,
    name: str | None = None,
    max_shard_samples: int = DEFAULT_MAX_SHARD_SAMPLES,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
) -> Dataset:
    """Write the dataset folder `output` from `source`: "digits", a folder or a zip of `class/name.png`, or a `Source`.

    Every image is decoded once, so that a broken one is found here; its bytes are stored as they are. The same input
    gives the same bytes. After an error or a kill there is no `output`. Raises `DataError`.
    """
    output = Path(output)
    if max_shard_samples < 1 or max_shard_bytes < 1:
        raise DataError("max_shard_samples and max_shard_bytes must be at least 1")
    with staged(output) as folder:
        opened = open_source(source)
        _check_keys(opened.entries)
        write_dataset(
            folder, opened, name or opened.name, plan_shards(opened.entries, max_shard_samples, max_shard_bytes)
        )
    return Dataset.open(output)


def open_source(source: str | Path | Source) -> Source:
    """`digits`, a folder or a zip; raises `DataError` for anything else."""
    if not isinstance(source, str | Path):
        return source
    if str(source) == "digits":
        return Digits()
    path = Path(source)
    if path.is_dir():
        return ClassFolder(path)
    if path.suffix == ".zip" and path.is_file():
        return ClassZip(path)
    found = "neither a folder nor a .zip" if path.exists() else "no such file or folder"
    raise DataError(f"source {source}: {found}; give `digits`, or a folder or zip of class/name.png")


def plan_shards(entries: Sequence[Entry], max_samples: int, max_bytes: int) -> Iterator[Sequence[Entry]]:
    """Cut entries, in order, into shards of at most so many samples and content bytes (at least one sample each)."""
    start, num_bytes = 0, 0
    for i, entry in enumerate(entries):
        if i > start and (i - start == max_samples or num_bytes + entry.size_bytes > max_bytes):
            yield entries[start:i]
            start, num_bytes = i, 0
        num_bytes += entry.size_bytes
    if start < len(entries):
        yield entries[start:]


def write_dataset(folder: Path, source: Source, name: str, shards: Iterator[Sequence[Entry]]) -> None:
    """Write every shard, then the index, then `dataset.json`."""
    written = [
        write_shard(folder / f"{name}-{number:06d}.tar", source, entries, number)
        for number, entries in enumerate(shards)
    ]
    index = make_index([row for shard in written for row in shard.rows])
    shapes = frozenset().union(*(shard.shapes for shard in written))
    write_index_and_manifest(
        folder,
        name=name,
        classes=source.classes,
        image=ImageShape(*next(iter(shapes))) if len(shapes) == 1 else None,
        index=index,
        shards=tuple(shard.shard for shard in written),
    )


def write_shard(path: Path, source: Source, entries: Sequence[Entry], number: int) -> WrittenShard:
    """Write one tar in WebDataset naming: `key.png`, and `key.cls` where there is a label."""
    rows, shapes = [], set()
    with TarWriter(path) as tar:
        for entry in entries:
            data = source.read(entry)
            shapes.add(decode(data, f"{source.name}: {entry.location}").shape)
            offset = tar.add(f"{entry.key}.{entry.extension}", data)
            if entry.label != NO_LABEL:
                tar.add(f"{entry.key}.cls", str(entry.label).encode())
            kind = EXTENSIONS.index(entry.extension)
            rows.append((entry.key.encode(), number, offset, len(data), kind, entry.label, content_hash(data)))
    return WrittenShard(Shard(path.name, tar.num_bytes, tar.sha256(), len(rows)), rows, frozenset(shapes))


def write_index_and_manifest(
    folder: Path,
    *,
    name: str,
    classes: tuple[str, ...],
    image: ImageShape | None,
    index: np.ndarray,
    shards: tuple[Shard, ...],
) -> None:
    """Make `folder` a dataset: `index.npy`, then `dataset.json`."""
    path = folder / INDEX_NAME
    np.save(path, index, allow_pickle=False)
    with path.open("rb") as file:
        index_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = Manifest(
        format=FORMAT,
        name=name,
        classes=classes,
        num_samples=len(index),
        image=image,
        fingerprint=fingerprint(index, classes),
        index_sha256=index_sha256,
        shards=shards,
    )
    write_manifest(folder, manifest)


def _check_keys(entries: Sequence[Entry]) -> None:
    counts = collections.Counter(entry.key for entry in entries)
    if len(counts) == len(entries):
        return
    twice = [entry.location for entry in entries if counts[entry.key] > 1]
    raise DataError(f"several files give one key: {shorten(sorted(twice))}; rename all but one of each")
