"""Runs one job a shard on threads; what takes time (decoding, hashing, reading, writing) leaves Python's lock alone."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from ..errors import DataError

Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with (shards done, shards in all)."""


class Stopped(Exception):
    """Another job failed or the run was interrupted; never seen by callers of `run_jobs`."""


class StopFlag:
    """Lets a job of minutes end early."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Call once a sample; raises `Stopped`."""
        if self._event.is_set():
            raise Stopped


def resolve_num_workers(num_workers: int | None) -> int:
    """As given, or the CPUs this process may use; raises `DataError` for less than one."""
    if num_workers is None:
        return len(os.sched_getaffinity(0))
    if num_workers < 1:
        raise DataError(f"num_workers: {num_workers}; at least 1 is needed")
    return num_workers


def run_jobs(
    jobs: Sequence[Callable[[StopFlag], Result]], num_workers: int, progress: Progress | None = None
) -> list[Result]:
    """Results in the order of `jobs`. The first error, or Ctrl-C, ends the others and is raised; no thread is left."""
    stop = StopFlag()
    with ThreadPoolExecutor(max_workers=num_workers, thread_name_prefix="shards") as pool:
        futures = [pool.submit(job, stop) for job in jobs]
        try:
            for num_done, future in enumerate(as_completed(futures), 1):
                future.result()
                if progress is not None:
                    progress(num_done, len(futures))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]
