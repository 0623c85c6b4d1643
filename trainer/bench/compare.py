"""Rows beside earlier ones of the same combination on the same device: is any slower?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError

# so much longer is a regression, where it also is beyond the spread of both
TOLERANCE = 0.05

Row = Mapping[str, Any]
# what a row was measured on
_WHERE = ("model", "device", "num_ranks", "num_nodes")


def read_rows(path: Path) -> list[Row]:
    """Raises ConfigError for what is no file of rows."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise ConfigError(f"--compare {path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--compare {path}: not rows of `erasediff bench`, a line of JSON each: {error}") from None
    if odd := next(
        (row for row in rows if not isinstance(row, dict) or not {*_WHERE, "settings", "status"} <= row.keys()), None
    ):
        raise ConfigError(f"--compare {path}: not a row of `erasediff bench`: {json.dumps(odd)[:80]}")
    return rows


def regressions(rows: Sequence[Row], earlier: Sequence[Row], where: Path) -> list[str]:
    """A line for each combination that takes longer than in `earlier`, or no longer runs.

    Longer: the median by more than `TOLERANCE`, and the fastest fifth beyond the slowest fifth of then. Of several rows
    of one combination the newest counts. Raises ConfigError where no combination is in both.
    """
    found, num_both = [], 0
    for now in _newest(rows):
        then = next((row for row in reversed(earlier) if _is_same(now, row)), None)
        if then is not None:
            num_both += 1
            found += [line for line in (_regression(now, then),) if line is not None]
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


def _regression(now: Row, then: Row) -> str | None:
    if then["status"] != "ok":
        return None
    if now["status"] != "ok":
        return f"{describe(now)}: {now['status']}, and ran before"
    ratio = now["seconds"] / then["seconds"]
    if ratio <= 1 + TOLERANCE or now["seconds_p20"] <= then["seconds_p80"]:
        return None
    return f"{describe(now)}: {now['seconds']:.4g} s, {then['seconds']:.4g} s before ({ratio - 1:+.0%})"


def describe(row: Row) -> str:
    """A row's settings in words: those that are not the defaults."""
    settings: Mapping[str, Any] = row["settings"]
    return ", ".join(f"{name} = {value}" for name, value in settings.items()) or "as it is by default"
