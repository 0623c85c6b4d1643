"""One dataset → a forget set and a remain set that share nothing."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .build import (
    DEFAULT_MAX_SHARD_BYTES,
    DEFAULT_MAX_SHARD_SAMPLES,
    plan_shards,
    write_dataset,
    write_index_and_manifest,
)
from .dataset import Dataset, same_content
from .errors import DataError, shorten
from .manifest import Shard
from .source import Entry
from .staging import staged

FORGET_NAME = "forget"
REMAIN_NAME = "remain"


def split(
    dataset: Dataset | str | Path, output: str | Path, forget_labels: Sequence[str | int]
) -> tuple[Dataset, Dataset]:
    """Write `output/forget` and `output/remain`; returns both.

    `forget` has compact shards of its own. `remain` is not rewritten: its index leaves the forgotten rows out and
    points into the shards of `dataset`, by relative path. Raises `DataError`, writing nothing, when a label has no
    sample, nothing would remain, or an image lies on both sides (the same bytes under two labels).
    """
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    output = Path(output)
    forgotten = select_labels(dataset, forget_labels)
    _check_split(dataset, forgotten)
    with staged(output) as folder:
        _write_forget(folder / FORGET_NAME, dataset, forgotten)
        _write_remain(folder / REMAIN_NAME, dataset, forgotten, final=output / REMAIN_NAME)
    return Dataset.open(output / FORGET_NAME), Dataset.open(output / REMAIN_NAME)


def select_labels(dataset: Dataset, labels: Sequence[str | int]) -> np.ndarray:
    """bool [N]: which samples have one of the labels, each a class name or, where no name is a number, a position."""
    if not labels:
        raise DataError("--forget-label: none given; name at least one class")
    selected = np.zeros(len(dataset), dtype=bool)
    for label in labels:
        matches = dataset.labels == _class_number(dataset, label)
        if not matches.any():
            raise DataError(f"--forget-label {label}: no sample of {dataset.path} has it; classes: {_classes(dataset)}")
        selected |= matches
    return selected


def _class_number(dataset: Dataset, label: str | int) -> int:
    name = str(label)
    if name in dataset.classes:
        return dataset.classes.index(name)
    # with numbers as names, a position would be taken for a name
    if (
        name.isdecimal()
        and not any(known.isdecimal() for known in dataset.classes)
        and int(name) < len(dataset.classes)
    ):
        return int(name)
    raise DataError(f"--forget-label {label}: no such class in {dataset.path}; classes: {_classes(dataset)}")


def _classes(dataset: Dataset) -> str:
    return shorten(dataset.classes, limit=20)


def _check_split(dataset: Dataset, forgotten: np.ndarray) -> None:
    if forgotten.all():
        raise DataError(
            f"{dataset.path}: all {len(dataset):,} samples would be forgotten and none remain; forget fewer labels"
        )
    forget_rows, remain_rows = np.flatnonzero(forgotten), np.flatnonzero(~forgotten)
    overlaps = same_content(dataset.index[forget_rows], dataset.index[remain_rows])
    if overlaps:
        pairs = [f"{dataset.key(forget_rows[i])} = {dataset.key(remain_rows[j])}" for i, j in overlaps]
        what = f"{len(pairs)} forgotten image(s) are also among the remaining, byte for byte"
        raise DataError(f"{dataset.path}: {what}: {shorten(pairs)}; forget both, or remove one and build again")


class _Selected:
    """A source for `write_dataset`: some samples of a dataset, as they are."""

    def __init__(self, dataset: Dataset, rows: np.ndarray) -> None:
        self.dataset = dataset
        self.name = f"{dataset.name}-{FORGET_NAME}"
        self.classes = dataset.classes
        self.entries = [_entry(dataset, row) for row in rows.tolist()]

    def read(self, entry: Entry) -> bytes:
        return self.dataset.read_bytes(int(entry.location))


def _entry(dataset: Dataset, i: int) -> Entry:
    row = dataset.index[i]
    return Entry(dataset.key(i), dataset.extension(i), int(row["length"]), str(i), int(row["label"]))


def _write_forget(folder: Path, dataset: Dataset, forgotten: np.ndarray) -> None:
    folder.mkdir()
    source = _Selected(dataset, np.flatnonzero(forgotten))
    shards = plan_shards(source.entries, DEFAULT_MAX_SHARD_SAMPLES, DEFAULT_MAX_SHARD_BYTES)
    write_dataset(folder, source, source.name, shards)


def _write_remain(folder: Path, dataset: Dataset, forgotten: np.ndarray, final: Path) -> None:
    folder.mkdir()
    index = dataset.index[~forgotten]
    counts = np.bincount(index["shard"], minlength=len(dataset.manifest.shards))
    shards = []
    for shard, num_samples in zip(dataset.manifest.shards, counts.tolist(), strict=True):
        path = os.path.relpath((dataset.path / shard.path).resolve(), final.resolve())
        shards.append(Shard(path, shard.bytes, shard.sha256, num_samples))
    write_index_and_manifest(
        folder,
        name=f"{dataset.name}-{REMAIN_NAME}",
        classes=dataset.classes,
        image=dataset.image_shape,
        index=index,
        shards=tuple(shards),
    )
