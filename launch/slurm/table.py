"""A sweep's runs, a line each."""

from __future__ import annotations

from pathlib import Path

from . import controller
from .folder import Submission, newest, starts, submissions


def newest_of_each(sweep: Path) -> list[Submission]:
    """Of each run the submission that counts, in the order of the sweep."""
    return list({one.name: one for one in submissions(sweep)}.values())


def is_done(run: Path) -> bool:
    return (run / "model").exists()


def table(sweep: Path) -> list[str]:
    """What became of each run, a line each; the first error of those that failed."""
    found = newest_of_each(sweep)
    states = controller.states([one.job for one in found])
    rows = []
    for one in found:
        run, state, known = sweep / one.name, states[one.job], starts(sweep / "slurm" / one.folder)
        end = known[-1].end() if known else None
        what = "finished" if is_done(run) or state.name == "COMPLETED" else state.name.lower()
        if not state.is_known and what != "finished" and end is not None and not end.is_requeued:
            what = "failed"
        said = newest(run)[1]
        if what == "failed" and known:
            said = known[-1].first_error() or said
        rows.append((one.name, one.job, what, said))
    widths = [max(len(row[column]) for row in [*rows, ("run", "job", "state", "")]) for column in range(3)]
    lines = [("run", "job", "state", "what it has"), *rows]
    return [
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]) for row in lines
    ]
