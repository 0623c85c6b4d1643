"""Parts → a dataset folder: one index, `dataset.json`, a card."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import DataError, shorten
from ..format.index import fingerprint, has_latents, index_dtype, load_index
from ..format.manifest import (
    FORMAT,
    INDEX_NAME,
    ImageShape,
    Latents,
    Manifest,
    Shard,
    write_manifest,
)
from ..sources.classes import check_numbers
from .card import write_card
from .jobs import Progress, StopFlag, run_jobs
from .parts import Part, SavedPart, remove_parts, resumed
from .staging import sync


def assemble(
    folder: Path,
    make: Callable[[int, StopFlag], Part],
    num_parts: int,
    *,
    name: str,
    classes: tuple[str, ...] | None,
    num_workers: int,
    progress: Progress | None,
    latents: Latents | None = None,
) -> None:
    """Make every part (or find it finished), then complete the dataset in `folder`.

    `make` is called with a part's number, on several threads. `classes` None names labels by their numbers.
    """

    def job(number: int, stop: StopFlag) -> SavedPart:
        return resumed(folder, number, lambda: make(number, stop))

    parts = run_jobs([partial(job, number) for number in range(num_parts)], num_workers, progress)
    index = _join(folder / INDEX_NAME, [part.rows for part in parts])
    check_unique(index)
    if classes is not None:
        check_numbers(index, classes, name)
    shapes = frozenset[tuple[int, ...]]().union(*(part.shapes for part in parts))
    complete(
        folder,
        name=name,
        classes=_numbered_classes(index) if classes is None else classes,
        image=ImageShape(*next(iter(shapes))) if len(shapes) == 1 and () not in shapes else None,
        index=index,
        shards=tuple(part.shard for part in parts),
        latents=latents,
    )
    remove_parts(folder)


def save_index(folder: Path, index: np.ndarray) -> None:
    """Write `index.npy`."""
    np.save(folder / INDEX_NAME, index, allow_pickle=False)


def complete(
    folder: Path,
    *,
    name: str,
    classes: tuple[str, ...],
    image: ImageShape | None,
    index: np.ndarray,
    shards: Sequence[Shard],
    latents: Latents | None = None,
) -> None:
    """Make `folder`, which has its `index.npy`, a dataset: card first, `dataset.json` last."""
    path = folder / INDEX_NAME
    sync(path)
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
        shards=tuple(shards),
        latents=latents,
    )
    write_card(folder, manifest, index)
    write_manifest(folder, manifest)


def check_unique(index: np.ndarray) -> None:
    """Raise `DataError` naming keys that two samples have."""
    keys = np.sort(index["key"])
    twice = np.unique(keys[1:][keys[1:] == keys[:-1]])
    if len(twice):
        names = shorten(key.decode(errors="replace") for key in twice.tolist())
        raise DataError(f"several samples have one key: {names}; rename them")


def _join(path: Path, parts: Sequence[Path]) -> np.ndarray:
    """Write the parts' rows one after the other, one part open at a time, keys as wide as the widest."""
    num_rows, key_bytes, has_any = 0, 1, False
    for part in map(load_index, parts):
        num_rows += len(part)
        key_bytes = max(key_bytes, part.dtype["key"].itemsize)
        has_any = has_any or has_latents(part)
    if not num_rows:
        raise DataError("no sample in it; give a source with at least one")
    dtype = index_dtype(key_bytes, has_latents=has_any)
    joined = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(num_rows,))
    start = 0
    for part in map(load_index, parts):
        joined[start : start + len(part)] = part
        start += len(part)
    joined.flush()
    return joined


def _numbered_classes(index: np.ndarray) -> tuple[str, ...]:
    return tuple(str(label) for label in range(int(index["label"].max()) + 1))
