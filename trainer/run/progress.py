"""What a person watches while a run goes on: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..ranks import collectives

# figures that go by another name there
_UNITS = {"samples_per_second": "samples/s"}


class StepProgress:
    """Progress over steps; silent on all ranks but the first."""

    def __init__(self, name: str, first_step: int, num_steps: int, *, num_lines: int = 10):
        """num_lines: where there is no terminal, about so many."""
        self._name = name
        self._first_step = first_step
        self._num_steps = num_steps
        self._line_every = max(1, -(-num_steps // num_lines))
        self._start = time.perf_counter()
        self._bar: Progress | None = None
        self._silent = not collectives.is_main()
        if not self._silent and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(name, total=num_steps, completed=first_step, figures="")
            self._bar.start()

    def update(self, step: int, figures: dict[str, float]) -> None:
        """Step `step` (from 0) is done."""
        if self._silent:
            return
        shown = "  ".join(f"{_UNITS.get(key, key)} {value:.4g}" for key, value in figures.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=step + 1, figures=shown)
        elif (step + 1) % self._line_every == 0 or step + 1 == self._num_steps:
            seconds = time.perf_counter() - self._start
            left = seconds / (step + 1 - self._first_step) * (self._num_steps - step - 1)
            times = f"{seconds:.0f} s" + (f", {left:.0f} s left" if left else "")
            told = "  ".join(text for text in (f"{self._name} {step + 1}/{self._num_steps}", shown, times) if text)
            print(told, file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """A line that stays, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(line)
        elif not self._silent:
            print(f"{self._name}: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
