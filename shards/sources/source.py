"""What every source of samples gives to `build`."""

import collections
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import DataError, is_unicode, shorten
from ..format.index import NO_LABEL
from ..format.limits import MAX_KEY_BYTES


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample before it is read."""

    key: str
    """Unique; no dot, since WebDataset ends a key at the first one."""
    extension: str
    size_bytes: int
    """Known without reading, so that shards can be planned."""
    location: str
    """What `read` needs: a path or a number, as the source pleases."""
    label: int = NO_LABEL
    text: str = ""
    """Caption."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Anything JSON can hold."""
    modified_ns: int = 0
    """Changes when the content does; 0 where the source's `stamp` covers it."""
    latents: bytes = b""
    """What an autoencoder makes of the image, as `.npy`; empty for none."""


class Source(Protocol):
    """Samples in the order in which they will lie in the shards; threads call `entry` and `read`."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def sizes_bytes(self) -> Sequence[int]:
        """Of each sample's content, as `read` will return it."""
        ...

    def stamp(self) -> str:
        """Equal only for equal content: a build that was killed continues only from the same source."""
        ...

    def entry(self, i: int) -> Entry: ...

    def read(self, entry: Entry) -> bytes:
        """The sample's encoded bytes; raises `DataError`."""
        ...


class ListedSource:
    """Base of sources whose entries fit in a list."""

    name: str
    classes: tuple[str, ...]

    def __init__(self, entries: Sequence[Entry]) -> None:
        _check_keys(entries)
        self.entries = entries
        self.sizes_bytes = [entry.size_bytes for entry in entries]

    def stamp(self) -> str:
        digest = hashlib.sha256(repr(self.classes).encode())
        for entry in self.entries:
            digest.update(repr(entry).encode())
        return digest.hexdigest()

    def entry(self, i: int) -> Entry:
        return self.entries[i]


def name_of(path: Path) -> str:
    """What a dataset is called if nobody says: like the folder, or like the file without its suffix."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would name what a link points to
    return absolute.name if path.is_dir() else absolute.stem


def mixed(entries: list[Entry]) -> list[Entry]:
    """The same entries in an order that depends on keys alone.

    Neighbours in a shard should not be of one class: the stream shuffles within a window of shards only.
    """
    return sorted(entries, key=lambda entry: hashlib.sha256(_key_bytes(entry)).digest())


def _key_bytes(entry: Entry) -> bytes:
    """The key in UTF-8; raises `DataError` for one that no reader of tars would take."""
    if not is_unicode(entry.key) or "\0" in entry.key:
        raise DataError(f"{entry.location!r}: name or key is not UTF-8 text; rename it")
    key = entry.key.encode()
    if len(key) > MAX_KEY_BYTES:
        raise DataError(f"{entry.location!r}: a key of {len(key):,} bytes, more than {MAX_KEY_BYTES:,}; shorten it")
    return key


def _check_keys(entries: Sequence[Entry]) -> None:
    counts = collections.Counter(entry.key for entry in entries)
    if len(counts) == len(entries):
        return
    twice = [entry.location for entry in entries if counts[entry.key] > 1]
    raise DataError(f"several files give one key: {shorten(sorted(twice))}; rename all but one of each")
