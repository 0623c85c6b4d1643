"""The index: one row a sample, in shard order, memory-mapped from `index.npy`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError

NO_LABEL = -1
# the index stores a position in this table: append only
IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")
EXTENSIONS = (*IMAGE_EXTENSIONS, "npy", "safetensors")
# of the member beside the image that holds its latents
LATENTS_EXTENSION = "latents.npy"
_CHUNK_ROWS = 1 << 18
_LATENTS = [("latents_offset", "<u8"), ("latents_length", "<u4")]


def index_dtype(key_bytes: int, *, has_latents: bool = False) -> np.dtype:
    """Row layout for keys of at most `key_bytes` bytes of UTF-8.

    `shard` counts from 0 in the order of `dataset.json`; `offset` and `length` (bytes) are those of the sample's
    content inside its shard; `extension` counts in `EXTENSIONS`; `label` is NO_LABEL for none; `content_hash` is the
    first half of its bytes' SHA-256. `text_*` and `meta_*` place the caption and the JSON metadata, length 0 for none;
    `latents_*`, where samples have them, what an autoencoder makes of the image.
    """
    return np.dtype(
        [
            ("key", f"S{max(key_bytes, 1)}"),
            ("shard", "<u4"),
            ("offset", "<u8"),
            ("length", "<u4"),
            ("extension", "u1"),
            ("label", "<i4"),
            ("content_hash", "V16"),
            ("text_offset", "<u8"),
            ("text_length", "<u4"),
            ("meta_offset", "<u8"),
            ("meta_length", "<u4"),
            *(_LATENTS if has_latents else []),
        ]
    )


def has_latents(index: np.ndarray) -> bool:
    """Whether its samples have latents beside them."""
    return "latents_offset" in (index.dtype.names or ())


def content_hash(data: bytes) -> bytes:
    """16 bytes that identify a sample's content."""
    return hashlib.sha256(data).digest()[:16]


@dataclass(frozen=True, slots=True)
class Row:
    """One sample's place in a shard, as `index_dtype` has it without the shard's number."""

    key: bytes
    offset: int
    length: int
    extension: str
    label: int
    content_hash: bytes
    text_offset: int = 0
    text_length: int = 0
    meta_offset: int = 0
    meta_length: int = 0
    latents_offset: int = 0
    latents_length: int = 0


def make_index(rows: Sequence[Row], shard: int) -> np.ndarray:
    """Index of one shard."""
    widest = max((len(row.key) for row in rows), default=1)
    index = np.zeros(len(rows), dtype=index_dtype(widest, has_latents=any(row.latents_length for row in rows)))
    index["shard"] = shard
    index["extension"] = [EXTENSIONS.index(row.extension) for row in rows]
    for name in index.dtype.names or ():
        if name not in ("shard", "extension"):
            index[name] = [getattr(row, name) for row in rows]
    return index


def hash_numbers(index: np.ndarray) -> np.ndarray:
    """Content hashes in a type that numpy can sort and compare: byte strings of 16."""
    # trailing zero bytes do not count in a byte string, which is the same on both sides of a comparison
    return np.ascontiguousarray(index["content_hash"]).view("S16")


def load_index(path: Path) -> np.ndarray:
    """Memory-map an index, read only; raises `DataError` when it is not one of ours."""
    # opening a pipe or device could wait for ever
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a regular file; build the dataset again")
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: missing; build the dataset again") from None
    # numpy's header parser lets SyntaxError, TypeError and others through on damaged files
    except Exception as error:
        raise DataError(f"{path}: not a readable index ({error}); build the dataset again") from error
    names = index.dtype.names or ()
    known = index_dtype(index.dtype["key"].itemsize, has_latents=has_latents(index)) if "key" in names else None
    if index.ndim != 1 or index.dtype != known:
        raise DataError(f"{path}: an array of {index.dtype}, not an index of this version; build the dataset again")
    # every access to a memmap object costs microseconds more than to the array it is
    return index.view(np.ndarray)


def fingerprint(index: np.ndarray, classes: tuple[str, ...]) -> str:
    """SHA-256 over class names and every sample's key, label and content, in order; shard sizes do not matter."""
    digest = hashlib.sha256("\n".join(classes).encode() + b"\0")
    for start in range(0, len(index), _CHUNK_ROWS):
        rows = index[start : start + _CHUNK_ROWS]
        digest.update(b"\n".join(rows["key"].tolist()) + b"\0")
        digest.update(rows["label"].tobytes())
        digest.update(rows["content_hash"].tobytes())
    return digest.hexdigest()
