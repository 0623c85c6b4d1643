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
# what a row was measured on; the rest is what was measured
_WHERE = ("model", "device", "num_ranks", "num_nodes", "settings")


def read_rows(path: Path) -> list[Row]:
    """Raises ConfigError for what is no file of rows."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise ConfigError(f"--compare {path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--compare {path}: not rows of `erasediff bench`, a line of JSON each: {error}") from None
    if odd := next((row for row in rows if not isinstance(row, dict) or not {*_WHERE, "status"} <= row.keys()), None):
        raise ConfigError(f"--compare {path}: not a row of `erasediff bench`: {json.dumps(odd)[:80]}")
    return rows


def regressions(rows: Sequence[Row], earlier: Sequence[Row], where: Path) -> list[str]:
    """A line for each combination that takes longer than in `earlier`, or no longer runs.

    Longer: the median by more than `TOLERANCE`, and the fastest fifth beyond the slowest fifth of then. Of several rows
    of one combination the newest counts. Raises ConfigError where no combination is in both.
    """
    now, then = ({_key(row): row for row in each} for each in (rows, earlier))
    both = [key for key in now if key in then]
    if not both:
        raise ConfigError(
            f"--compare {where}: none of its rows is of a combination, a device and a number of ranks measured here"
        )
    return [line for key in both if (line := _regression(now[key], then[key])) is not None]


def _key(row: Row) -> str:
    return json.dumps({name: row[name] for name in _WHERE}, sort_keys=True)


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
