"""What every benchmark writes: rows, as Markdown on the terminal and as JSON in build/benchmarks/, and where from; or
the tables of a page of docs/results.

A line of JSON has the row's columns and, under `provenance`, device, threads, versions, commit, date, load and command.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from erasediff.trainer.bench.sweep import processor

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "triton", "deepspeed", "diffusers", "numpy", "pillow")


def provenance(device: str | None = None) -> dict[str, str]:
    """device: the accelerator's name; None: the CPU's is found."""
    found = {"device": device or f"{processor()}, {os.cpu_count()} cores", "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    load = f"{os.getloadavg()[0]:.1f}"
    threads = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    about = {"commit": commit, "date": f"{datetime.now(UTC):%Y-%m-%d}", "load": load, "threads": threads}
    return found | about | {"command": f"python {shlex.join(sys.argv)}"}


def write_tables(page: Path, script: str, text: str) -> None:
    """At the end of a page, in place of those that this script, a path, wrote before; what is above them stays."""
    marker = f"<!-- below: written by benchmarks/{Path(script).name} -->"
    above = page.read_text(encoding="utf-8").partition(marker)[0] if page.exists() else ""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{above}{marker}\n\n{text.strip()}\n", encoding="utf-8")


def searched(found: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of a search, each candidate's first two cells, its method and its settings, bold where chosen, and its row.

    found: `methods`, the settings chosen for each, and `search`, rows by "METHOD #NUMBER" that have theirs in them.
    """
    for numbered, row in found["search"].items():
        name = numbered.rpartition(" #")[0]
        settings = {key: row[key] for key in ("method", "optimizer")}
        told = ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for section in settings.values()
            for key, value in section.items()
            if key != "name"
        )
        mark = "**" if settings == found["methods"][name] else ""
        yield f"{name} | {mark}{told}{mark}", row


class Rows:
    """A table that grows; its heading and where it comes from are printed when it is made."""

    def __init__(self, columns: Sequence[str], device: str | None = None, path: Path | None = None):
        """path: of the JSON lines, which are added to what is there."""
        self._columns = columns
        self._provenance = provenance(device)
        self._path = path or ROOT / "build" / "benchmarks" / f"{Path(sys.argv[0]).stem}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        print(" · ".join(f"{key} {value}" for key, value in self._provenance.items()) + "\n")
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)

    def add(self, *cells: object) -> None:
        """A row; columns that are left out at its end are empty."""
        texts = [*map(str, cells), *[""] * (len(self._columns) - len(cells))]
        print(f"| {' | '.join(texts)} |", flush=True)
        row = dict(zip(self._columns, texts, strict=True))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row | {"provenance": self._provenance}, ensure_ascii=False) + "\n")
