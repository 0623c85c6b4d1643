"""Ends a rank whose run no longer moves: a collective waits for ever for a rank that does not come.

A thread on every rank keeps heartbeat/rank-00000.json up to date: the step this rank is in and what it does there. When
nothing has moved for the set time, each rank's thread says which ranks are missing, dumps where its own threads stand,
and ends the process, for a thread in a collective can be ended in no other way. Time in which the process did not run
at all does not count: SLURM stops a job's processes to let another job in, and they go on where they were.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from . import collectives
from .last_words import leave_word

Phase = Literal["reading its samples", "computing"]
ORDER: tuple[Phase, ...] = ("reading its samples", "computing")

# heartbeats within the set time; a rank that has missed some of them does not run at all
TICKS = 10


class Watchdog:
    """One rank's watch over one run. Every rank makes it; `timeout_seconds` without a `beat` end the process."""

    def __init__(self, attempt: Path, timeout_seconds: float):
        self._folder = attempt / "heartbeat"
        self._timeout_seconds = timeout_seconds
        self._rank, self._world_size = collectives.rank(), collectives.world_size()
        self._place = (0, 0)  # step, number of the phase
        self._moved_at = time.monotonic()
        self._done = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the watch is on."""
        self._folder.mkdir(exist_ok=True)
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def beat(self, step: int, phase: Phase) -> None:
        """This rank has come to `phase` of `step`. Costs nothing: the thread writes it down."""
        self._place = (step, ORDER.index(phase))
        self._moved_at = time.monotonic()

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank-{rank:05d}.json"

    def _watch(self) -> None:
        tick = self._timeout_seconds / TICKS
        moved_at, seen_at = self._moved_at, time.monotonic()
        still_seconds = 0.0
        while True:
            self._write_place()
            if still_seconds > self._timeout_seconds:
                self._end()
            if self._done.wait(tick):
                return
            now = time.monotonic()
            # a tick that took longer is one in which the process was stopped
            still_seconds += min(now - seen_at, 2 * tick)
            seen_at = now
            if moved_at != self._moved_at:
                moved_at = self._moved_at
                still_seconds = min(now - moved_at, 2 * tick)

    def _write_place(self) -> None:
        partial = self._path(self._rank).with_suffix(".partial")
        try:
            partial.write_text(json.dumps(self._place))
            partial.rename(self._path(self._rank))
        except OSError:
            pass  # a full disk: what needs the space says so

    def _end(self) -> None:
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        line = f"nothing has moved for {self._timeout_seconds:.0f} s: {self._missing()}"
        print(f"erasediff: {line}", file=sys.stderr, flush=True)
        leave_word(line, 1)
        # the others' threads look up to a tick later: who leaves before them takes the line out of their mouths
        time.sleep(2 * self._timeout_seconds / TICKS)
        os._exit(1)

    def _missing(self) -> str:
        """Who does not run, or else who is behind, and where each of them was seen last."""
        places: dict[int, tuple[int, int]] = {}
        silent: list[int] = []
        for rank in range(self._world_size):
            try:
                step, phase = json.loads(self._path(rank).read_text())
                places[rank] = (step, phase)
                age_seconds = time.time() - self._path(rank).stat().st_mtime
            except (OSError, ValueError):
                age_seconds = float("inf")
            if age_seconds > self._timeout_seconds / 2:
                silent.append(rank)
        furthest = max(places.values(), default=(0, 0))
        missing = silent or [rank for rank, place in places.items() if place < furthest]
        if not missing:
            return f"all ranks are {ORDER[furthest[1]]} in step {furthest[0]}"

        def seen(rank: int) -> str:
            if rank not in places:
                return f"rank {rank} is missing and never began"
            step, phase = places[rank]
            return f"rank {rank} is missing, last seen {ORDER[phase]} in step {step}"

        return "; ".join(map(seen, missing))
