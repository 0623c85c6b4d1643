"""Reads bytes out of shards by offset, with a bounded number of open files."""

import os
import resource
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError

# of each dataset; a process may open 1,024 files where nobody says otherwise, and reads two at a time
_MAX_OPEN_FILES = max(16, min(256, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))


class ShardFiles:
    """Shards by number, each with its size in bytes; safe to share between threads."""

    def __init__(self, paths: Sequence[Path], sizes_bytes: Sequence[int]) -> None:
        self.paths = paths
        self._sizes_bytes = sizes_bytes
        self.num_bytes_read = 0
        self._open: dict[int, BinaryIO] = {}
        self._lock = threading.Lock()

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`; raises `DataError` when the shard is missing or ends before."""
        self._check_place(shard, offset, length)
        # this reference keeps the descriptor alive should another thread drop the file meanwhile
        file = self._file(shard)
        try:
            data = os.pread(file.fileno(), length, offset)
            # one call reads at most 2 GiB, and less when a signal comes
            while len(data) < length and (more := os.pread(file.fileno(), length - len(data), offset + len(data))):
                data += more
        except OSError as error:
            raise self._unreadable(shard, error) from error
        self._check_length(shard, offset, length, len(data))
        self._count(len(data))
        return data

    def read_into(self, shard: int, offset: int, targets: Sequence[memoryview], length: int) -> None:
        """Fill contiguous `targets`, in turn, with the `length` bytes at `offset`; raises as `read` does."""
        self._check_place(shard, offset, length)
        file = self._file(shard)
        try:
            num_read = os.preadv(file.fileno(), targets, offset)
        except OSError as error:
            raise self._unreadable(shard, error) from error
        if num_read < length:
            # rare: a signal came, or the file is too short, which `read` finds out
            _fill(targets, self.read(shard, offset, length))
        else:
            self._count(num_read)

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self.num_bytes_read += num_bytes

    def close(self) -> None:
        """Close every file; a later read opens its file again."""
        with self._lock:
            self._open.clear()

    def _check_place(self, shard: int, offset: int, length: int) -> None:
        """A damaged index may point anywhere, and ask for any amount of memory."""
        if not 0 <= shard < len(self.paths):
            raise DataError(
                f"index out of date: it points to shard {shard} of {len(self.paths)}; build the dataset again"
            )
        if offset + length > self._sizes_bytes[shard]:
            where = f"{self.paths[shard]}: {length:,} bytes wanted at offset {offset:,}, beyond its end"
            raise DataError(f"{where}: index out of date; build the dataset again")

    def _unreadable(self, shard: int, error: OSError) -> DataError:
        return DataError(f"{self.paths[shard]}: cannot be read ({error.strerror}); copy or build it again")

    def _check_length(self, shard: int, offset: int, length: int, found: int) -> None:
        if found < length:
            where = f"{self.paths[shard]}: truncated: {length:,} bytes wanted at offset {offset:,}"
            raise DataError(f"{where}, {found:,} found; copy or build it again")

    def _file(self, shard: int) -> BinaryIO:
        file = self._open.get(shard)
        if file is None:
            file = _open_shard(self.paths[shard])
            with self._lock:
                # the oldest goes; threads that still read it hold their own reference
                if len(self._open) >= _MAX_OPEN_FILES:
                    self._open.pop(next(iter(self._open)))
                self._open[shard] = file
        return file


def _open_shard(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); copy or build it again") from error


def _fill(targets: Sequence[memoryview], data: bytes) -> None:
    start = 0
    # an array without an element takes nothing
    for target in (target for target in targets if target.nbytes):
        target.cast("B")[:] = data[start : start + target.nbytes]
        start += target.nbytes
