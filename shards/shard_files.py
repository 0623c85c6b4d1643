"""Reads bytes out of shards by offset, with a bounded number of open files."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from .errors import DataError

_MAX_OPEN_FILES = 64


class ShardFiles:
    """Shards by number; safe to share between threads."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`; raises `DataError` when the shard is missing or ends before."""
        # this reference keeps the descriptor alive should another thread drop the file meanwhile
        file = self._file(shard)
        data = os.pread(file.fileno(), length, offset)
        while len(data) < length:
            more = os.pread(file.fileno(), length - len(data), offset + len(data))
            if not more:
                where = f"{self.paths[shard]}: truncated: {length:,} bytes wanted at offset {offset:,}"
                raise DataError(f"{where}, {len(data):,} found; copy or build it again")
            data += more
        return data

    def close(self) -> None:
        """Close every file; a later read opens its file again."""
        with self._lock:
            self._open.clear()

    def _file(self, shard: int) -> BinaryIO:
        with self._lock:
            if shard not in self._open:
                if len(self._open) >= _MAX_OPEN_FILES:
                    self._open.popitem(last=False)
                self._open[shard] = _open_shard(self.paths[shard])
            self._open.move_to_end(shard)
            return self._open[shard]


def _open_shard(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); copy or build it again") from error
