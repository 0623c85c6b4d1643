"""Batches made ahead of time by threads."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from ..errors import DataError

Made = TypeVar("Made")


class Prefetch(Generic[Made]):
    """Iterates over `(b, make(b))` from `start` on, without end; `make` is a stream's `batch`, or calls it.

    Threads, since decoding, reading and scaling leave Python's lock alone: there is no process and no shared memory
    that could stay behind. What comes out does not depend on `num_workers` (0 works when asked); two batches a worker
    are kept ready. An error comes out in its batch's turn. Close it.
    """

    def __init__(
        self,
        make: Callable[[int], Made],
        *,
        start: int = 0,
        num_workers: int = 2,
        begin: Callable[[], None] | None = None,
    ) -> None:
        """begin: called once in each thread, before its first batch."""
        if num_workers < 0 or start < 0:
            raise DataError(f"num_workers: {num_workers}, start: {start}; at least 0 is needed")
        self._make = make
        self._next = start
        self._num_ahead = 2 * num_workers
        self._pool = ThreadPoolExecutor(num_workers, "prefetch", initializer=begin) if num_workers else None
        self._ready: deque[Future[Made]] = deque()

    def __iter__(self) -> Iterator[tuple[int, Made]]:
        return self

    def __next__(self) -> tuple[int, Made]:
        b = self._next
        batch = self._make(b) if self._pool is None else self._take(self._pool)
        self._next += 1
        return b, batch

    def close(self) -> None:
        """Stop the threads; waits for batches being made, drops the others."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._drop()

    def _take(self, pool: ThreadPoolExecutor) -> Made:
        while len(self._ready) < self._num_ahead:
            self._ready.append(pool.submit(self._make, self._next + len(self._ready)))
        try:
            return self._ready.popleft().result()
        except BaseException:
            # whoever asks again gets this batch, not the one after it
            self._drop()
            raise

    def _drop(self) -> None:
        for future in self._ready:
            future.cancel()
        self._ready.clear()
