"""How far a command is: a bar on a terminal, a plain line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator

from .jobs import Progress

_LINE_SECONDS = 30.0


@contextlib.contextmanager
def show_progress(what: str) -> Iterator[Progress]:
    """A function to call with (done, all); writes to stderr. `what` is counted, such as "shards"."""
    if sys.stderr.isatty():
        with _bar(what) as progress:
            yield progress
    else:
        yield _lines(what)


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Progress:
    last_seconds = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last_seconds
        now_seconds = time.monotonic()
        if now_seconds - last_seconds >= _LINE_SECONDS:
            last_seconds = now_seconds
            print(f"{done:,} of {total:,} {what}", file=sys.stderr, flush=True)

    return progress
