"""Prompts to ask a model for, from a CSV file: what the evaluation asks for in place of the data's captions.

    prompt,class,phrasing,factor
    a red three,three,"a {} three",red

`class` is what the judge should see; `phrasing` groups prompts whose figure is wanted by itself (an empty cell: the
prompt alone; no such column: nothing is grouped); `factor` is the class that `judge.factor`'s judge should see. Other
columns are not read. A file without `class`, in the layout of I2P, asks for the one class that is forgotten. COCO's
layout calls the prompt `caption`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..files import sha256_of


@dataclass(frozen=True)
class AskedPrompt:
    """A row."""

    prompt: str
    of_class: str
    """Empty: the file has no such column."""
    phrasing: str
    """Empty: it is of no group."""
    factor: str
    """Empty: the file does not say."""


def read_rows(path: str | Path, needed: Sequence[str], option: str) -> list[dict[str, str]]:
    """The rows of a CSV with these columns at least. Raises ConfigError, naming `option`, for anything else."""
    where = f"{option} = '{path}'"
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            rows = dict((reader.line_num, row) for row in reader)  # noqa: C402 (the number is another one each time)
            if "prompt" not in columns and "caption" in columns:
                columns = [*columns, "prompt"]
                rows = {line: row | {"prompt": row["caption"]} for line, row in rows.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{where} cannot be read as CSV: {error}") from None
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise ConfigError(f"{where}: two columns are called {twice!r}; rename one")
    for column in needed:
        if column not in columns:
            found = ", ".join(columns) or "none"
            raise ConfigError(f"{where} has no column {column!r}; its first line names the columns: {found}")
        empty = next((line for line, row in rows.items() if not (row[column] or "").strip()), None)
        if empty is not None:
            raise ConfigError(f"{where}: line {empty} has no {column}")
    if not rows:
        raise ConfigError(f"{where} holds no prompt")
    longer = next((line for line, row in rows.items() if None in row), None)
    if longer is not None:
        raise ConfigError(
            f"{where}: line {longer} has more cells than there are columns: put a prompt that has a comma in quotes"
        )
    shorter = next((line for line, row in rows.items() if None in row.values()), None)
    if shorter is not None:
        raise ConfigError(f"{where}: line {shorter} has fewer cells than there are columns: write its commas, too")
    return [{name: value.strip() for name, value in row.items()} for row in rows.values()]


def prompts_sha256(path: str | None) -> str | None:
    """SHA-256 (hex) of the file; None for none."""
    return None if path is None else sha256_of(Path(path))


def read_prompts(path: str | Path) -> list[AskedPrompt]:
    """`judge.prompts`; raises ConfigError for a file that is none, and for a prompt that stands for two classes."""
    rows = read_rows(path, ["prompt"], "judge.prompts")
    if "class" in rows[0]:
        rows = read_rows(path, ["prompt", "class"], "judge.prompts")
    has_groups = "phrasing" in rows[0]
    asked = [
        AskedPrompt(
            row["prompt"],
            row.get("class", ""),
            (row.get("phrasing") or row["prompt"]) if has_groups else "",
            row.get("factor", ""),
        )
        for row in rows
    ]
    known: dict[str, AskedPrompt] = {}
    for one in asked:
        if known.setdefault(one.prompt, one) != one:
            raise ConfigError(f"judge.prompts = '{path}': {one.prompt!r} is there twice, with different columns")
    return list(known.values())


def has_phrasings(path: str | Path) -> bool:
    """Whether `judge.prompts` groups its prompts; raises ConfigError as `read_prompts` does."""
    return any(row.phrasing for row in read_prompts(path))


def read_kept_prompts(path: str | Path) -> list[str]:
    """`judge.kept_prompts`, each once; raises ConfigError for a file that is none."""
    return list(dict.fromkeys(row["prompt"] for row in read_rows(path, ["prompt"], "judge.kept_prompts")))
