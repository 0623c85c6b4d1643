"""`bench`: settings in, rows out."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import BenchConfig
from ..errors import ConfigError, TrainingError
from ..ranks import collectives
from .compare import MIN_ROUNDS, Row, read_rows, regressions
from .sweep import combinations, time_all

JSON_NAME, CSV_NAME = "bench.jsonl", "bench.csv"


def check(config: BenchConfig) -> None:
    """Raises ConfigError where nothing could be timed, the device aside."""
    check_place(Path(config.rows), "rows", is_folder=True)
    own = Path(config.rows) / JSON_NAME
    if own.exists():
        read_rows(own, "rows:")
    if config.compare is not None:
        read_rows(Path(config.compare))
        if own.resolve() == Path(config.compare).resolve():
            raise ConfigError(
                f"--compare {config.compare}: rows are added to it, and what is slower today would be the measure of "
                "tomorrow: name a copy, or another folder in --rows"
            )
        if config.rounds < MIN_ROUNDS:
            raise ConfigError(f"--compare: --rounds {config.rounds} tells too little of noise: {MIN_ROUNDS} at least")
    if config.trace is not None:
        check_place(Path(config.trace), "trace")
    combinations(config)


def check_place(path: Path, option: str, *, is_folder: bool = False) -> None:
    """Raises ConfigError where nothing can be written: no folder, no file, or no leave to."""
    if path.exists() and path.is_dir() != is_folder:
        raise ConfigError(f"{option} = '{path}' is a {'folder' if path.is_dir() else 'file'}: name another")
    nearest = next(place for place in (path, *path.parents, Path.cwd()) if place.exists())
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"{option} = '{path}': '{nearest}' may not be written")
    if nearest != path and not nearest.is_dir():
        raise ConfigError(f"{option} = '{path}': '{nearest}' is a file")


def run_bench(config: BenchConfig, on_row: Callable[[Row], None]) -> list[Row]:
    """Times every combination; rank 0 writes each row as it is done and then calls `on_row`. All ranks call it.

    Raises ConfigError where nothing can be timed, and TrainingError where `compare` finds a regression.
    """
    device = collectives.set_up(config.engine)
    collectives.together(lambda: check(config))
    earlier = None if config.compare is None else collectives.on_main(lambda: read_rows(Path(str(config.compare))))
    folder = Path(config.rows)

    def write(row: dict[str, Any]) -> None:
        if collectives.is_main():
            _append(folder, row)
            on_row(row)

    rows = time_all(config, device, write)
    if earlier is not None:
        collectives.on_main(lambda: hold_to(rows, earlier, Path(str(config.compare))))
    return [*rows]


def hold_to(rows: list[dict[str, Any]], earlier: list[Row], where: Path) -> None:
    """Raises TrainingError where a combination is slower than in `earlier`."""
    found = regressions(rows, earlier, where)
    if found:
        raise TrainingError(f"slower than in {where}: {'; '.join(found)}")


def compare_files(earlier: Path, rows: Path) -> None:
    """`hold_to` of rows that are there already. Raises ConfigError for what are none."""
    hold_to([dict(row) for row in read_rows(rows)], read_rows(earlier), earlier)


def _append(folder: Path, row: dict[str, Any]) -> None:
    """To the lines of JSON, of which the table is made anew: rows that differ in their columns stand in it, too."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / JSON_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(f"rows = '{folder}': {error.strerror}") from None
    rows = [_flat(each) for each in read_rows(folder / JSON_NAME, "rows:")]
    columns = list(dict.fromkeys(name for each in rows for name in each))
    with (folder / CSV_NAME).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _flat(row: Row) -> dict[str, Any]:
    settings: dict[str, Any] = row["settings"]
    return {name: value for name, value in row.items() if name not in ("settings", "defaults", "varied")} | settings
