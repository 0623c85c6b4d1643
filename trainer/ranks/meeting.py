"""A rank's wish that all ranks meet at a step boundary, to stop or to hear its news: it travels in the step's packet.

So all decide alike. Whoever asks for a stop may be a signal handler or a thread. Where there are no steps, and whatever
is under way may be cut off at any moment, a signal ends the work where it stands. No torch here.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import Interrupted

# a second signal within this time is taken for an echo of the first: launchers and terminals both send it on
ECHO_SECONDS = 2.0

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

_STOPPED = "stopped, what was done is kept; the same command continues"

_asked = threading.Event()
_has_news = threading.Event()
_signalled_at: float | None = None
_is_deferred = False
_is_patient = False


def ask() -> None:
    """From now on every packet of this rank carries the wish to stop."""
    _asked.set()


def is_asked() -> bool:
    return _asked.is_set()


def announce() -> None:
    """This rank has news for the others: from now on its packets ask them to meet, until they have."""
    _has_news.set()


def wants_to_meet() -> bool:
    return _asked.is_set() or _has_news.is_set()


def met() -> None:
    """The news have been told."""
    _has_news.clear()


def reset() -> None:
    """Forgets the wish to stop: it has been met."""
    _asked.clear()


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal only asks for a stop: whoever opens it looks at packets, or calls `check` behind it."""
    global _is_deferred
    _is_deferred = True
    try:
        yield
    finally:
        _is_deferred = False


def check() -> None:
    """Raises Interrupted where a signal has asked for a stop that came too late for the last step's packet."""
    if is_asked():
        reset()
        raise Interrupted(_STOPPED)


def be_patient() -> None:
    """From now on a second signal ends nothing: who sends it (SLURM) kills by itself when the time is over."""
    global _is_patient
    _is_patient = True


@contextmanager
def on_signals() -> Iterator[None]:
    """Inside, SIGTERM, SIGUSR2 (SLURM's) and Ctrl-C raise Interrupted or, `deferred`, ask for a stop.

    SIGTERM or Ctrl-C again 2 s later end the process, unless it is to `be_patient`.

    For commands, in the main thread, around everything slow. Every rank uses it.
    """
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        # who was asked to stop is on the way out: a launcher's reminder must not change the exit code
        for number, handler in before.items():
            signal.signal(number, handler if _signalled_at is None else signal.SIG_IGN)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _signalled_at
    now = time.monotonic()
    if _signalled_at is None:
        _signalled_at = now
        if not _is_deferred:
            raise Interrupted(_STOPPED)
        ask()
    elif now - _signalled_at >= ECHO_SECONDS and not _is_patient and number != signal.SIGUSR2:
        os._exit(128 + number)
