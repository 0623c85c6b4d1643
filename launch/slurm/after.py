"""What the batch script asks when its ranks have ended: is the job to be queued again?

`python -m erasediff.launch.slurm.after OPTIONS` prints one line and leaves with 75 where it is, and else with the exit
status that the job is to have. Standard library alone: it answers at once, on any node.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from .folder import End, Start, newest, run_of, starts

EX_TEMPFAIL, EX_UNAVAILABLE = 75, 69
# a run that says one of these says it again: a mistake, a threshold, forgetting that is not shown
FINAL = (1, 2, 3)
# SLURM may send the signal so long before its time
EARLY_SECONDS = 60
# of the shell, where a command cannot be started, and of Python
NOT_STARTED = (1, 2, 126, 127)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="after", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--status", type=int, required=True, help="srun's")
    parser.add_argument("--ran", type=int, required=True, help="seconds of this start")
    parser.add_argument("--limit", type=int, required=True, help="seconds until the time limit's signal")
    parser.add_argument("--fruitless", type=int, required=True, help="so many such starts are enough")
    parser.add_argument("--ranks", type=int, required=True)
    options = parser.parse_args(words)
    start = Start.here(options.run / "slurm")
    end = decide(
        options.run,
        start,
        options.status,
        num_ranks=options.ranks,
        was_at_limit=options.ran >= options.limit - EARLY_SECONDS,
        max_fruitless=options.fruitless,
    )
    start.note_end(end)
    then = "; the job is queued again" if end.is_requeued else ""
    print(f"erasediff: start {start.number}: {end.how}{then} ({end.newest})", file=sys.stderr, flush=True)
    return EX_TEMPFAIL if end.is_requeued else end.status


def decide(run: Path, start: Start, status: int, *, num_ranks: int, was_at_limit: bool, max_fruitless: int) -> End:
    """How a start has ended, whose srun left with `status`, and whether the job goes on.

    run: the folder that the job was submitted from.
    """
    said = start.ranks()
    has = newest(run_of(run, start.folder.parent.name))[1]

    def end(status: int, how: str, kind: str, *, requeue: bool) -> End:
        return End(status, how, kind, has, requeue, datetime.now(UTC).isoformat(timespec="seconds"))

    if status == 0:
        return end(0, "finished", "finished", requeue=False)
    final = [rank for rank, one in said.items() if one["status"] in FINAL]
    if final:
        first = min(final, key=lambda rank: (said[rank]["time"], rank))
        code = said[first]["status"]
        how = f"rank {first} on {said[first]['host']} left with {code}: {start.message(first)}".rstrip(": ")
        return end(code, how, f"exit {code}", requeue=False)
    if not said and status in NOT_STARTED:
        return end(status, f"no rank came to its command, srun left with {status}", f"srun {status}", requeue=False)
    asked = [rank for rank, one in said.items() if one["status"] == EX_TEMPFAIL]
    missing = [rank for rank in range(num_ranks) if rank not in said]
    if asked and not missing:
        kind = "time limit" if was_at_limit else "asked"
        how = "asked to stop shortly before its time limit" if was_at_limit else "asked to stop"
        ended = end(EX_TEMPFAIL, how, kind, requeue=True)
    elif missing:
        which = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        how = f"rank{'s' * (len(missing) > 1)} {which} ended without a word, srun left with {status}"
        ended = end(status or 1, how, f"lost {status}", requeue=True)
    else:
        others = sorted({one["status"] for one in said.values()} - {0})
        code = next((code for code in others if code != EX_UNAVAILABLE), EX_UNAVAILABLE)
        ended = end(code, f"ranks left with {', '.join(map(str, others))}", f"exit {code}", requeue=True)
    if ended.kind == "asked":  # whoever asks may ask as often as they like
        return ended
    before = [one.end() for one in starts(start.folder.parent) if one.number < start.number]
    same = 1
    for earlier in reversed(before):
        if earlier is None or (earlier.kind, earlier.newest) != (ended.kind, ended.newest):
            break
        same += 1
    if same >= max_fruitless:
        advice = "give it a longer timeout_min" if ended.kind == "time limit" else "its logs may say why"
        how = f"{ended.how}; {same} starts have ended so without a new checkpoint: {advice}"
        return end(1, how, ended.kind, requeue=False)
    return ended


if __name__ == "__main__":
    sys.exit(main())
