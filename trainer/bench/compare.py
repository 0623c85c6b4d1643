"""Rows beside earlier ones of the same combination on the same device: is any slower?"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError

# so much longer is a regression, where it also is beyond the noise of both
TOLERANCE = 0.05
# standard errors of the difference that count as noise
NOISE = 2.0
MIN_ROUNDS = 3

Row = Mapping[str, Any]
# what a row was measured on
_WHERE = ("model", "device", "num_ranks", "num_nodes", "num_threads")


def read_rows(path: Path, option: str = "--compare") -> list[Row]:
    """Raises ConfigError for what is no file of rows; option: what named it."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise ConfigError(f"{option} {path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option} {path}: not rows of `erasediff bench`, a line of JSON each: {error}") from None
    if odd := next((row for row in rows if not _is_row(row)), None):
        raise ConfigError(f"{option} {path}: not a row of `erasediff bench`: {json.dumps(odd)[:80]}")
    return rows


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not {*_WHERE, "settings", "status"} <= row.keys():
        return False
    return isinstance(row["settings"], dict) and (row["status"] != "ok" or len(row.get("seconds_by_round", ())) > 0)


def regressions(rows: Sequence[Row], earlier: Sequence[Row], where: Path) -> list[str]:
    """A line for each combination that takes longer than in `earlier`, or no longer runs.

    Longer: the mean of the rounds' medians by more than `TOLERANCE`, and by more than `NOISE` standard errors, which
    come of how far the rounds of each lie apart. Of several rows of one combination the newest that ran counts. Raises
    ConfigError where no combination is in both, and for less than `MIN_ROUNDS`.
    """
    found, num_both = [], 0
    for now in _newest(rows):
        of_then = [row for row in earlier if _is_same(now, row)]
        then = next((row for row in reversed(of_then) if row["status"] == "ok"), of_then[-1] if of_then else None)
        if then is not None:
            num_both += 1
            found += [line for line in (_regression(now, then, where),) if line is not None]
    if not num_both:
        raise ConfigError(
            f"--compare {where}: none of its rows is of a combination, a device and a number of ranks measured here"
        )
    return found


def _newest(rows: Sequence[Row]) -> list[Row]:
    """Of several rows of one combination the last."""
    return [row for i, row in enumerate(rows) if not any(_is_same(row, later) for later in rows[i + 1 :])]


def _is_same(one: Row, other: Row) -> bool:
    """Whether both are of one combination: a setting that only one of them knows is its default there."""
    if any(one[name] != other[name] for name in _WHERE):
        return False
    ours, theirs = (row.get("defaults", {}) | row["settings"] for row in (one, other))
    if any(ours[key] != theirs[key] for key in ours.keys() & theirs.keys()):
        return False
    return not (one["settings"].keys() - theirs.keys()) and not (other["settings"].keys() - ours.keys())


def _regression(now: Row, then: Row, where: Path) -> str | None:
    if then["status"] != "ok":
        return None
    if now["status"] != "ok":
        return f"{describe(now)}: {now['status']}, and ran before"
    rounds = [[math.log(seconds) for seconds in row["seconds_by_round"]] for row in (now, then)]
    if any(len(each) < MIN_ROUNDS for each in rounds):
        raise ConfigError(
            f"--compare {where}: {describe(now)}: {min(map(len, rounds))} rounds tell too little of noise: "
            f"--rounds {MIN_ROUNDS} at least"
        )
    change = statistics.mean(rounds[0]) - statistics.mean(rounds[1])
    noise = NOISE * math.hypot(*(statistics.stdev(each) / math.sqrt(len(each)) for each in rounds))
    if change <= math.log(1 + TOLERANCE) or change <= noise:
        return None
    return (
        f"{describe(now)}: {now['seconds']:.4g} s, {then['seconds']:.4g} s before ({math.expm1(change):+.0%}, of which "
        f"{math.expm1(noise):.0%} may be noise)"
    )


def describe(row: Row) -> str:
    """A row's settings in words, those that are not the defaults, and how many shared its work."""
    settings: Mapping[str, Any] = row["settings"]
    told = ", ".join(f"{name} = {value}" for name, value in settings.items()) or "as it is by default"
    if row["num_ranks"] == 1:
        return told
    return f"{told}, {row['num_ranks']} ranks on {row['num_nodes']} node{'s' if row['num_nodes'] > 1 else ''}"
