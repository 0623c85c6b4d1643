"""What every source of samples gives to `build`."""

from dataclasses import dataclass
from typing import Protocol

from .index import NO_LABEL


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample before it is read."""

    key: str
    """Unique; no dot, since WebDataset ends a key at the first one."""
    extension: str
    size_bytes: int
    """Known without reading, so that shards can be planned; equals the length of what `read` returns."""
    location: str
    """What `read` needs: a path or a number, as the source pleases."""
    label: int = NO_LABEL


class Source(Protocol):
    """Samples in the order in which they will lie in the shards."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def entries(self) -> list[Entry]: ...

    def read(self, entry: Entry) -> bytes:
        """The sample's encoded bytes; raises `DataError`."""
        ...
