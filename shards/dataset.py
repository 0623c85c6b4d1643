"""A dataset folder opened for reading."""

import json
import stat
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError, shorten
from .format.arrays import array_layout
from .format.images import decode
from .format.index import EXTENSIONS, NO_LABEL, fingerprint, has_latents, hash_numbers, load_index
from .format.manifest import INDEX_NAME, ImageShape, Manifest, read_manifest
from .format.shard_files import ShardFiles
from .format.staging import nearest, nearest_shard


@dataclass(frozen=True)
class Sample:
    """One decoded sample."""

    key: str
    image: np.ndarray
    """uint8 [H, W, C], C = 1 or 3."""
    label: int | None
    text: str = ""
    """Caption."""


class Dataset:
    """Samples by number, `0 … len(self) - 1`, in shard order. Make one with `Dataset.open`."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        index: np.ndarray,
        *,
        classes: tuple[str, ...] | None = None,
        label_table: np.ndarray | None = None,
        caption: str | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.index = index
        """Rows as in `index.index_dtype`, memory-mapped, read only; labels count in the manifest's classes."""
        self.classes = manifest.classes if classes is None else classes
        """Class names; a label is a position in it."""
        self._label_table = label_table
        self._caption = caption
        self.files = ShardFiles(
            [nearest_shard(path, shard.path) for shard in manifest.shards], [shard.bytes for shard in manifest.shards]
        )

    @classmethod
    def open(cls, path: str | Path) -> "Dataset":
        """Open a folder made by `build` or `split`.

        Checks what is cheap: that files exist with the recorded sizes and that the counts agree; hashes and pixels are
        `verify`'s work. Raises `DataError`.
        """
        path = Path(path)
        manifest = read_manifest(path)
        index = load_index(nearest(path) / INDEX_NAME)
        if not len(index) == manifest.num_samples == sum(shard.num_samples for shard in manifest.shards):
            found = f"{len(index):,} rows for {manifest.num_samples:,} samples"
            raise DataError(f"{path / INDEX_NAME}: {found}: index out of date; build the dataset again")
        if manifest.latents is not None and not has_latents(index):
            raise DataError(f"{path / INDEX_NAME}: places no latents: index out of date; build the dataset again")
        for shard in manifest.shards:
            check_size(nearest_shard(path, shard.path), shard.bytes)
        return cls(path, manifest, index)

    def only(self, rows: np.ndarray) -> "Dataset":
        """The samples that `rows` (bool [len(self)], some of them true) names, in memory alone."""
        index = self.index[rows]
        counts = np.bincount(index["shard"], minlength=len(self.manifest.shards)).tolist()
        shards = tuple(
            replace(shard, num_samples=count, num_excluded=shard.num_excluded + shard.num_samples - count)
            for shard, count in zip(self.manifest.shards, counts, strict=True)
        )
        manifest = replace(
            self.manifest,
            num_samples=len(index),
            shards=shards,
            fingerprint=fingerprint(index, self.manifest.classes),
            index_sha256="",  # there is no file
        )
        return self._seen(manifest=manifest, index=index)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over class names and every sample's key, label and content, in order."""
        return self.manifest.fingerprint

    @property
    def image_shape(self) -> ImageShape | None:
        """Size of every image, or None when they differ."""
        return self.manifest.image

    def relabelled(self, classes: tuple[str, ...], table: np.ndarray) -> "Dataset":
        """The same samples for a reader who counts classes otherwise: label i is `table[i]` there, -1 for none.

        table: int64 [len(self.manifest.classes)], positions in `classes`. The fingerprint stays, the index too.
        """
        return self._seen(classes=classes, label_table=table)

    def captioned(self, caption: str) -> "Dataset":
        """The same samples, each with this caption, "{}" in it standing for the name of its class; none without one."""
        return self._seen(caption=caption)

    def without_latents(self) -> "Dataset":
        """The same samples, images alone."""
        return self._seen(manifest=replace(self.manifest, latents=None))

    def _seen(self, **otherwise: Any) -> "Dataset":
        now = {"manifest": self.manifest, "index": self.index, "classes": self.classes}
        now |= {"label_table": self._label_table, "caption": self._caption}
        return Dataset(self.path, **(now | otherwise))

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 [len(self)], -1 where a sample has none."""
        return self.labels_at(slice(None))

    def labels_at(self, rows: np.ndarray | slice) -> np.ndarray:
        """int64, the labels of these samples alone."""
        labels = self.index["label"][rows].astype(np.int64)
        check_labels(labels, self.manifest.classes)
        if self._label_table is None:
            return labels
        return np.where(labels == NO_LABEL, NO_LABEL, self._label_table[labels])

    @property
    def keys(self) -> list[str]:
        """Every sample's key."""
        return [decode_key(key) for key in self.index["key"].tolist()]

    def __len__(self) -> int:
        return len(self.index)

    def key(self, i: int) -> str:
        """The key of sample `i`."""
        return decode_key(self.index["key"][i])

    def extension(self, i: int) -> str:
        """The content's file extension, such as `png`."""
        number = int(self.index["extension"][i])
        if number >= len(EXTENSIONS):
            raise DataError(
                f"{self.path / INDEX_NAME}: sample {i} is of unknown kind {number}; build the dataset again"
            )
        return EXTENSIONS[number]

    def read_bytes(self, i: int) -> bytes:
        """The encoded content of sample `i`, as it was given to `build`."""
        row = self.index[i]
        return self.files.read(int(row["shard"]), int(row["offset"]), int(row["length"]))

    def read(self, i: int) -> Sample:
        """Read and decode sample `i`; raises `DataError` naming it."""
        label = int(self.labels_at(np.array([i]))[0])
        image = decode(self.read_bytes(i), self.where(i))
        return Sample(self.key(i), image, None if label == NO_LABEL else label, self.text(i))

    def text(self, i: int) -> str:
        """The caption of sample `i`, empty for none."""
        if self._caption is not None:
            label = int(self.labels_at(np.array([i]))[0])
            return "" if label == NO_LABEL else self._caption.replace("{}", self.classes[label])
        row = self.index[i]
        data = self._side_bytes(row, "text")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise DataError(f"{self.where(i)}: caption is not UTF-8; build the shard again") from None

    @cached_property
    def captions(self) -> list[str]:
        """Every sample's caption: read once and kept, equal ones as one string."""
        kept: dict[str, str] = {}
        return [kept.setdefault(caption, caption) for caption in map(self.text, range(len(self)))]

    def metadata(self, i: int) -> dict[str, Any]:
        """The JSON metadata of sample `i`, empty for none."""
        data = self._side_bytes(self.index[i], "meta")
        try:
            metadata = json.loads(data) if data else {}
        # a thousand nested brackets are a RecursionError
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.where(i)}: metadata is not JSON ({error}); build the shard again") from None
        if not isinstance(metadata, dict):
            raise DataError(f"{self.where(i)}: metadata is no JSON object; build the shard again")
        return metadata

    def latents(self, i: int) -> np.ndarray:
        """What an autoencoder made of image `i`, fp32 [2 · channels, height, width]: mean, then log-variance.

        Raises `DataError` where there is none, or another thing.
        """
        stamp, data = self.manifest.latents, self.latents_bytes(i)
        if stamp is None:
            raise DataError(
                f"{self.where(i)}: no latents are stored beside it; make them with `erasediff concept generate`"
            )
        (place,) = array_layout(data, "npy", f"{self.where(i)}: latents")
        if (place.dtype, place.shape) != (np.dtype("<f4"), stamp.shape):
            raise DataError(
                f"{self.where(i)}: latents of {place.dtype} {place.shape}, float32 {stamp.shape} expected; make them "
                "again"
            )
        return np.frombuffer(data, place.dtype, offset=place.start).reshape(place.shape)

    def latents_bytes(self, i: int) -> bytes:
        """The same as `.npy`; empty where there are none."""
        return b"" if self.manifest.latents is None else self._side_bytes(self.index[i], "latents")

    def where(self, i: int) -> str:
        """Shard and key of sample `i`, for messages."""
        shard = int(self.index["shard"][i])
        path = self.files.paths[shard] if shard < len(self.files.paths) else self.path / INDEX_NAME
        return f"{path}: sample {self.key(i)!r}"

    def _side_bytes(self, row: np.void, kind: str) -> bytes:
        length = int(row[f"{kind}_length"])
        return self.files.read(int(row["shard"]), int(row[f"{kind}_offset"]), length) if length else b""


def decode_key(key: bytes) -> str:
    """A key of the index as text; raises `DataError`."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise DataError(f"{INDEX_NAME}: key {key!r} is not UTF-8: index damaged; build the dataset again") from None


def check_labels(labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Raise `DataError` for a label that is no class."""
    wrong = labels[(labels < NO_LABEL) | (labels >= len(classes))]
    if len(wrong):
        found = f"label {wrong[0]} with {len(classes)} classes"
        raise DataError(f"{INDEX_NAME}: {found}: index out of date; build the dataset again")


def check_disjoint(forget: Dataset, remain: Dataset) -> None:
    """Raise `DataError`, naming samples, if a key or a content (identical bytes) is in both."""
    keys = np.intersect1d(forget.index["key"], remain.index["key"])
    if len(keys):
        names = shorten(decode_key(key) for key in keys.tolist())
        raise DataError(f"{forget.path} and {remain.path} share keys: {names}; split again")
    pairs = [f"{forget.key(i)} = {remain.key(j)}" for i, j in same_content(forget.index, remain.index)]
    if pairs:
        advice = "list both in the request, or remove one and build again"
        raise DataError(f"{forget.path} and {remain.path} share identical images: {shorten(pairs)}; {advice}")


def same_content(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    """Rows of two indexes with the same content hash, as (row of one, row of other); one pair for each hash."""
    return same_hash(hash_numbers(one), hash_numbers(other))


def same_hash(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    """`same_content` for what `hash_numbers` gives."""
    _, i, j = np.intersect1d(one, other, return_indices=True)
    return list(zip(i.tolist(), j.tolist(), strict=True))


def check_size(path: Path, num_bytes: int) -> None:
    """Raise `DataError` if a shard is missing or not of the recorded size."""
    try:
        state = path.stat()
    except FileNotFoundError:
        raise DataError(f"{path}: shard missing; copy it back, or build the dataset again") from None
    found = state.st_size
    # opening a pipe or device could wait for ever
    if not stat.S_ISREG(state.st_mode):
        raise DataError(f"{path}: not a regular file; copy the shard there, or build the dataset again")
    if found != num_bytes:
        problem = "truncated" if found < num_bytes else "longer than it was"
        raise DataError(f"{path}: {problem}: {found:,} bytes, {num_bytes:,} expected; copy or build it again")
