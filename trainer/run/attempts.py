"""The attempts of a run: every start has a folder of its own, and writes nowhere else until it publishes.

    attempt-0001/attempt.json          when, on what and how it started, the checkpoint it began from, how it ended
    attempt-0001/metrics.jsonl         a line a step
    attempt-0001/checkpoint-000050/    as `checkpoint` has them
    attempt-0001/heartbeat/            where each rank was seen last

A run is a chain: its newest attempt, the attempt whose checkpoint that one began from, and so on to the first. An
earlier attempt counts up to that checkpoint; whatever else it wrote, or still writes from a machine that was given up,
is void.
"""

from __future__ import annotations

import errno
import json
import math
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..files import naming, sync, write_json
from ..ranks import collectives
from .identity import ROUNDING_KEYS
from .provenance import now, versions

MANIFEST_NAME = "attempt.json"
METRICS_NAME = "metrics.jsonl"
FINISHED = "finished"
_PREFIX = "attempt-"


@dataclass(frozen=True)
class Manifest:
    """What attempt.json holds."""

    date: str
    """Of the start, UTC."""
    world_size: int
    num_threads: int
    versions: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    """Those that may change from start to start, flat, see `identity`; the device is the one that was found."""
    began_from: str | None = None
    """A checkpoint's folder, from the run's; None: the first step, or it has not come so far."""
    first_step: int | None = None
    """None: it ended before its first step."""
    bad_samples: list[str] = field(default_factory=list)
    """Keys of samples that could not be read and were left out."""
    num_bytes_read: list[int] = field(default_factory=list)
    """Of samples, by each rank, from its first step to the last of the run."""
    peak_bytes: list[int] = field(default_factory=list)
    """The most memory that these steps took on each rank: on CUDA of tensors, on a CPU of the whole process."""
    preparing_seconds: float | None = None
    """What the method did before the first step of all; None where that was another start's."""
    ended: str | None = None
    """"finished", or why not; None: it was killed, or is still at work."""


@dataclass(frozen=True)
class Attempt:
    """One start of a run. All ranks have it; rank 0 writes."""

    run: Path
    number: int

    @classmethod
    def create(cls, run: Path, settings: dict[str, Any] | None = None) -> Attempt:
        """A new attempt, the newest of the run, with its `free_settings`. All ranks call it."""
        return cls(run, collectives.on_main(lambda: _claim_number(run, settings or {})))

    @property
    def folder(self) -> Path:
        return self.run / f"{_PREFIX}{self.number:04d}"

    def manifest(self) -> Manifest | None:
        """None for a start that was killed before it could say anything. Raises ConfigError for a damaged one."""
        path = self.folder / MANIFEST_NAME
        try:
            return Manifest(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise ConfigError(
                f"{path} is damaged, or a newer erasediff wrote it: put it back, or choose another output"
            ) from None

    def begin(self, began_from: Path | None, first_step: int, *, has_dropout: bool = False) -> None:
        """Notes what the attempt goes on from; says in what it differs from that one.

        has_dropout: what decides in which parts a batch is computed, and where, decides what is dropped.
        """
        if not collectives.is_main():
            return
        name = None if began_from is None else str(began_from.relative_to(self.run))
        self._note(began_from=name, first_step=first_step)
        if name is not None:
            earlier, ours = _owner(self.run, name), self.manifest()
            for line, rounds, redraws in _differences(earlier.manifest(), ours):
                drops = has_dropout and redraws
                same = "with dropout, another model" if drops else "equal to rounding, not bit for bit"
                effect = f": {same}" if rounds else ""
                print(f"erasediff: {line} in {earlier.folder.name}{effect}", file=sys.stderr)

    def note_bad_samples(self, keys: list[str]) -> None:
        """Notes which samples could not be read and were left out."""
        if collectives.is_main():
            self._note(bad_samples=keys)

    def note_use(self, num_bytes_read: list[int], peak_bytes: list[int]) -> None:
        """Notes how much of the shards each rank has read, and the most memory its steps took (`peak.peak_bytes`)."""
        if collectives.is_main():
            self._note(num_bytes_read=num_bytes_read, peak_bytes=peak_bytes)

    def note_preparing(self, seconds: float) -> None:
        """Notes how long the method took before its first step."""
        if collectives.is_main():
            self._note(preparing_seconds=round(seconds, 4))

    def end(self, how: str) -> None:
        """Notes how the attempt ended."""
        if collectives.is_main():
            self._note(ended=how)

    def _note(self, **changed: Any) -> None:
        manifest = self.manifest()
        if manifest is None:
            raise FileNotFoundError(errno.ENOENT, "removed while the run goes on", str(self.folder / MANIFEST_NAME))
        write_json(self.folder / MANIFEST_NAME, asdict(replace(manifest, **changed)))

    def earlier_metrics(self) -> list[dict[str, Any]]:
        """The lines of the steps before this attempt's first one, on every rank. All ranks call it, after `begin`."""
        return collectives.on_main(lambda: read_metrics(self.run))

    def log(self, metrics: dict[str, Any]) -> None:
        """Appends a line; a number that is not finite becomes its name, JSON having none for it."""
        if not collectives.is_main():
            return
        line = {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in metrics.items()
        }
        path = self.folder / METRICS_NAME
        with naming(path), path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def sync_metrics(self) -> None:
        """Waits until the lines are on the disk: a checkpoint must not outlive those before it."""
        path = self.folder / METRICS_NAME
        if path.exists():
            sync(path)

    def superseded(self) -> str | None:
        """A line that names a later attempt at the same run, after which this one counts for nothing."""
        newest = max(attempt.number for attempt in [self, *read_attempts(self.run)])
        if newest == self.number:
            return None
        newer = Attempt(self.run, newest).folder
        return f"{newer} has taken this run over: what {self.folder.name} still makes is void"


def _owner(run: Path, checkpoint: str) -> Attempt:
    """Whose checkpoint it is."""
    return Attempt(run, int(Path(checkpoint).parts[0].removeprefix(_PREFIX)))


# with dropout: what decides in which parts a batch is computed, by whom, and what the draws are
_REDRAWS = frozenset({"engine.forward_batch_size", "engine.device", "torch"})


def _differences(theirs: Manifest | None, ours: Manifest | None) -> list[tuple[str, bool, bool]]:
    """What differs; whether sums in another order, or other code, may change the result's last bits; whether dropout
    draws anew.
    """
    if theirs is None or ours is None:
        return []
    found = []
    if theirs.world_size != ours.world_size:
        found.append((f"{ours.world_size} ranks here, {theirs.world_size}", True, True))
    if theirs.num_threads != ours.num_threads:
        found.append((f"{ours.num_threads} threads here, {theirs.num_threads}", True, False))
    for key in sorted(theirs.settings.keys() & ours.settings.keys()):
        if theirs.settings[key] != ours.settings[key]:
            line = f"{key} = {ours.settings[key]} here, {theirs.settings[key]}"
            found.append((line, key in ROUNDING_KEYS, key in _REDRAWS))
    for name in sorted(theirs.versions.keys() & ours.versions.keys()):
        if theirs.versions[name] != ours.versions[name]:
            found.append((f"{name} {ours.versions[name]} here, {theirs.versions[name]}", True, name in _REDRAWS))
    return found


def _claim_number(run: Path, settings: dict[str, Any]) -> int:
    attempts = read_attempts(run)
    number = attempts[-1].number + 1 if attempts else 1
    while True:
        attempt = Attempt(run, number)
        try:
            attempt.folder.mkdir()
            break
        except FileExistsError:  # another start was faster
            number += 1
    manifest = Manifest(now(), collectives.world_size(), torch.get_num_threads(), versions(), settings)
    write_json(attempt.folder / MANIFEST_NAME, asdict(manifest))
    return number


def read_attempts(run: Path) -> list[Attempt]:
    """All attempts at a run, the oldest first."""
    names = (path.name.removeprefix(_PREFIX) for path in run.glob(f"{_PREFIX}*"))
    return [Attempt(run, number) for number in sorted(int(name) for name in names if name.isdigit())]


@dataclass(frozen=True)
class Link:
    """An attempt's part in its run: steps [first_step, until_step)."""

    attempt: Attempt
    first_step: int
    until_step: float  # where the next link begins; infinite for the last


def chain(run: Path, *, before: int | None = None) -> list[Link]:
    """The links up to the newest attempt that began (of those numbered under `before`), the oldest first.

    Raises ConfigError where one of them is no longer there, or has a checkpoint and nothing that says whose it is.
    """
    began: dict[int, Manifest] = {}
    for attempt in read_attempts(run):
        manifest = attempt.manifest()
        if manifest is None and any(attempt.folder.glob("checkpoint-*/manifest.json")):
            raise ConfigError(
                f"{attempt.folder / MANIFEST_NAME} is missing, and a checkpoint is beside it: put it back, or choose "
                "another output"
            )
        if manifest is not None and manifest.first_step is not None and (before is None or attempt.number < before):
            began[attempt.number] = manifest
    links: list[Link] = []
    number, until = max(began, default=None), math.inf
    while number is not None:
        if number not in began:
            missing, newer = Attempt(run, number).folder, links[-1].attempt.folder.name
            raise ConfigError(
                f"{missing / MANIFEST_NAME} is missing, and {newer} went on from there: put it back, or choose another "
                "output"
            )
        manifest = began[number]
        assert manifest.first_step is not None
        links.append(Link(Attempt(run, number), manifest.first_step, until))
        until = manifest.first_step
        number = None if manifest.began_from is None else _owner(run, manifest.began_from).number
    return links[::-1]


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of the chain, a line a step; one that a kill has torn is left out."""
    lines: list[dict[str, Any]] = []
    for link in chain(run):
        path = link.attempt.folder / METRICS_NAME
        for text in path.read_text().splitlines() if path.exists() else []:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if link.first_step <= line["step"] < link.until_step:
                lines.append(line)
    return lines


def history(run: Path) -> list[dict[str, Any]]:
    """Every start of the run, for its record: the oldest first, each what its manifest says and the steps it logged.

    One that was killed before it wrote anything, or whose folder was removed since, has its name alone.
    """
    found: list[dict[str, Any]] = []
    newest = max((attempt.number for attempt in read_attempts(run)), default=0)
    for number in range(1, newest + 1):
        attempt = Attempt(run, number)
        manifest = attempt.manifest()
        if manifest is None:
            found.append({"attempt": attempt.folder.name})
            continue
        path = attempt.folder / METRICS_NAME
        num_steps = path.read_text().count("\n") if path.exists() else 0
        found.append({"attempt": attempt.folder.name} | asdict(manifest) | {"num_steps": num_steps})
    return found
