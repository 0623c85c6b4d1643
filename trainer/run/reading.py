"""A rank's micro-batches, read and noised by threads ahead of their step, and what is to be done with bad samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...shards.errors import DataError, shorten
from ...shards.streaming.prefetch import Prefetch
from ...shards.streaming.stream import SampleBatch, Stream
from ..errors import OneRankError, TrainingError
from ..objectives.objective import Batches, Objective
from ..ranks import collectives, meeting
from ..ranks.threads import compute_alone
from ..side_stream import SideStream, Staged


@dataclass(frozen=True)
class Streams:
    """Where the batches come from; `forget` is None for a method that needs none."""

    remain: Stream
    forget: Stream | None
    encodes: bool = False
    """Whether images go through an autoencoder ahead of their step: work for as many cores as a pass has."""

    @property
    def num_bytes_read(self) -> int:
        """Of samples, by this process."""
        return sum(stream.num_bytes_read for stream in (self.remain, self.forget) if stream is not None)


class Reader:
    """Makes the batches of one step after the other. A sample that cannot be read counts for nothing in its place."""

    def __init__(
        self,
        streams: Streams,
        objective: Objective[Any],
        bad_samples: BadSamples,
        device: torch.device,
        *,
        start: int,
        num_workers: int,
    ):
        """device: where the batches are made for."""
        self._streams = streams
        self._objective = objective
        self._bad_samples = bad_samples
        self._rank, self._world_size = collectives.rank(), collectives.world_size()
        self._side_stream = SideStream(device)
        begin = None if streams.encodes else compute_alone
        self._ahead = Prefetch(self._stage, start=start, num_workers=num_workers, begin=begin)

    def next(self) -> Batches:
        """The next step's; waits for it."""
        try:
            step, staged = next(self._ahead)
        except DataError as error:
            raise OneRankError(str(error)) from error
        batches = staged.take()
        self._bad_samples.note(step, batches.bad_samples)
        return batches

    def at(self, step: int) -> Batches:
        """Any step's; waits for it."""
        try:
            batches = self._stage(step).take()
        except DataError as error:
            raise OneRankError(str(error)) from error
        self._bad_samples.note(step, batches.bad_samples)
        return batches

    def close(self) -> None:
        """Ends the threads."""
        self._ahead.close()

    def _stage(self, step: int) -> Staged[Batches]:
        return self._side_stream.make(lambda: self._make(step))

    def _make(self, step: int) -> Batches:
        remain = self._read(self._streams.remain, step)
        if self._streams.forget is None:
            return Batches(self._objective.remain_batches(remain), [], remain.bad_samples)
        forget = self._read(self._streams.forget, step)
        return Batches(
            self._objective.remain_batches(remain),
            self._objective.forget_batches(forget),
            remain.bad_samples + forget.bad_samples,
        )

    def _read(self, stream: Stream, step: int) -> SampleBatch:
        return stream.batch(step, self._rank, self._world_size)


class BadSamples:
    """The samples that could not be read, known alike to all ranks once they have met."""

    def __init__(self, max_num: int):
        """`max_num`: so many may be left out."""
        self._max_num = max_num
        self._known: set[str] = set()
        self._news: dict[str, str] = {}  # this rank's, that the others have not heard: key → what is wrong

    @property
    def keys(self) -> list[str]:
        return sorted(self._known)

    def note(self, step: int, found: tuple[tuple[str, str], ...]) -> None:
        """What this rank found in a step's batches; asks all ranks to meet where there is something new."""
        self._news |= {key: f"step {step}: {what}" for key, what in found if key not in self._known}
        if self._news:
            meeting.announce()

    def tell(self) -> list[str]:
        """Tells all ranks of each other's news and returns it, a line a sample. All ranks call it together.

        Raises TrainingError on all of them where there are more bad samples than are allowed.
        """
        news: dict[str, str] = {}
        for told in collectives.gather(self._news):
            news |= {key: line for key, line in told.items() if key not in self._known}
        self._news = {}
        self._known |= news.keys()
        if len(self._known) <= self._max_num:
            return list(news.values())
        if len(self._known) == 1:
            what = next(iter(news.values()))
        else:
            what = f"{len(self._known)} samples cannot be read: {shorten(self.keys)}; {next(iter(news.values()))}"
        raise TrainingError(
            f"{what}. Repair them and give the same command again, or leave up to n of them out with "
            f"train.max_bad_samples = n (it is {self._max_num})"
        )
