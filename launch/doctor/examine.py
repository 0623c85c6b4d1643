"""Every check on every rank, one after the other: each rank looks, rank 0 judges what all have seen.

Nothing waits for ever: a look is cut off after `timeout_seconds`; a rank that does not answer is named and left out.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from ...shards.errors import DataError
from ...trainer.errors import ConfigError
from . import clocks, data, devices, kernels, network, output, room, software
from .check import Check, Seen
from .config import DoctorConfig
from .finding import Finding
from .peers import GRACE_SECONDS, Peers

# the network last: where it is broken, a rank may not survive the look at it
CHECKS: tuple[Check, ...] = (
    *(software.CHECK, devices.CHECK, kernels.CHECK, data.CHECK),
    *(output.CHECK, room.CHECK, clocks.CHECK, network.CHECK),
)
# a look that waits for a rank which has failed already
_GAVE_UP = "gave up, since another rank failed"
_NOT_TRIED = "not tried, since ranks are missing"
_left_behind: list[threading.Thread] = []


def examine(config: DoctorConfig) -> list[Finding]:
    """What was found, the same on every rank. All ranks of a job call it, or one process alone.

    A process group that was there is used; one of its own is left behind only where it `is_stuck`. Raises ConfigError
    where the launcher's environment is not whole, LostRankError on a rank that rank 0 does not answer.
    """
    return list(findings_of(Peers.meet(config.timeout_seconds), config))


def is_stuck() -> bool:
    """Whether a look still hangs in a library or a file system: an ordinary exit may then hang or abort."""
    return any(thread.is_alive() for thread in _left_behind)


def findings_of(peers: Peers, config: DoctorConfig) -> Iterator[Finding]:
    """The same as it goes, for ranks that have met. All of them go through to the end."""
    yield _who_came(peers)
    for number, check in enumerate(CHECKS):
        answer = _look(check, peers, config)
        peers.tell(f"{number}/{peers.rank}", asdict(answer))
        if peers.rank == 0:
            answers = {0: answer} | _answers(peers, number)
            findings = _judge(check, peers, config, answers)
            told = {"findings": [asdict(finding) for finding in findings], "lost": sorted(peers.lost)}
            peers.tell(f"{number}/judged", told)
        else:
            told = peers.hear_from_main(f"{number}/judged")
            findings = [Finding(**finding) for finding in told["findings"]]
            peers.lost = set(told["lost"])
        yield from findings
    # rank 0 may serve the store: it leaves last
    peers.tell(f"done/{peers.rank}", True)
    if peers.rank == 0:
        for rank in peers.present():
            peers.hear(f"done/{rank}", GRACE_SECONDS)


@dataclass(frozen=True)
class Answer:
    """Of one rank to one check."""

    value: Any = None
    problem: str | None = None
    """Why there is no value."""


def _who_came(peers: Peers) -> Finding:
    present = peers.present()
    hosts = sorted({host for host in peers.hosts if host is not None})
    shown = ", ".join(hosts[:8]) + (" …" if len(hosts) > 8 else "")
    if len(present) == peers.world_size:
        ranks = f"{peers.world_size} rank{'s' if peers.world_size > 1 else ''}"
        return Finding("ok", "ranks", f"{ranks} on {len(hosts)} host{'s' if len(hosts) > 1 else ''}: {shown}")
    missing = [rank for rank, host in enumerate(peers.hosts) if host is None]
    named = ", ".join(map(str, missing[:16])) + (" …" if len(missing) > 16 else "")
    found = f"{len(missing)} of {peers.world_size} did not come in {peers.limit_seconds:g} s: {named}"
    return Finding("failed", "ranks", found, "their logs may say why; see whether they reach MASTER_ADDR of rank 0")


def _look(check: Check, peers: Peers, config: DoctorConfig) -> Answer:
    """Of this rank, in a thread that is left behind where it does not come to an end."""
    if check.is_joint and len(peers.present()) < peers.world_size:
        return Answer(problem=_NOT_TRIED)
    answers: list[Answer] = []

    def run() -> None:
        try:
            answers.append(Answer(check.look(peers, config)))
        except Exception as error:  # whatever it is: the other checks go on
            answers.append(Answer(problem=explain(error)))
            if check.is_joint:
                with suppress(Exception):
                    peers.tell(f"failed/{check.what}", True)

    thread = threading.Thread(target=run, name=f"doctor: {check.what}", daemon=True)
    thread.start()
    slow = f"no answer in {peers.limit_seconds:g} s; --timeout-seconds allows more"
    deadline, told = time.monotonic() + peers.limit_seconds, slow
    next_question = time.monotonic() + 1
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(0.05)
        if check.is_joint and told == slow and time.monotonic() > next_question:
            next_question = time.monotonic() + 1
            if peers.hear(f"failed/{check.what}", 0) is not None:
                deadline, told = min(deadline, time.monotonic() + 2), _GAVE_UP
    if answers:
        return answers[0]
    _left_behind.append(thread)
    return Answer(problem=told)


def _answers(peers: Peers, number: int) -> dict[int, Answer]:
    """Of the other ranks."""
    until = time.monotonic() + peers.limit_seconds + GRACE_SECONDS
    answers: dict[int, Answer] = {}
    for rank in range(1, peers.world_size):
        if rank in peers.lost:
            continue
        told = peers.hear(f"{number}/{rank}", max(0.0, until - time.monotonic()))
        if told is None:
            peers.lost.add(rank)
            answers[rank] = Answer(problem="does not answer any more, its log may say why")
        else:
            answers[rank] = Answer(**told)
    return answers


def _judge(check: Check, peers: Peers, config: DoctorConfig, answers: dict[int, Answer]) -> list[Finding]:
    problems: dict[str, list[int]] = {}
    for rank, answer in answers.items():
        if answer.problem is not None:
            problems.setdefault(answer.problem, []).append(rank)
    if len(problems) > 1:
        problems.pop(_GAVE_UP, None)
    if not problems:
        try:
            return check.judge(Seen(peers, config, {rank: answer.value for rank, answer in answers.items()}))
        except Exception as error:  # a damaged file of the run, say
            return [Finding("failed", check.what, explain(error))]
    told = "; ".join(
        text if peers.world_size == 1 else f"{peers.name(*ranks)}: {text}" for text, ranks in problems.items()
    )
    return [Finding("failed", check.what, told, "" if _NOT_TRIED in problems else check.todo)]


def explain(error: Exception) -> str:
    """In one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # gloo puts the place in its source first
    line = re.sub(r"^\[enforce fail at [^\]]*\] ", "", str(error).strip().partition("\n")[0])
    return line if isinstance(error, ConfigError | DataError) else f"{type(error).__name__}: {line}"
