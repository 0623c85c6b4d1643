"""What benchmarks that run comparisons share: their rows, the same small search for every method, and its table."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasediff.trainer.comparing.cases import cases_of
from erasediff.trainer.comparing.derived import ERR
from erasediff.trainer.comparing.rows import Row, is_of, read_row
from erasediff.trainer.comparing.run import run_compare
from erasediff.trainer.config import CompareConfig
from erasediff.trainer.files import write_json
from rows import searched

Candidates = Mapping[str, list[dict[str, Any]]]


def grid(rates: Sequence[float], fixed: dict[str, Any], **options: list[Any]) -> list[dict[str, Any]]:
    """Method settings with every combination of the options, each at every learning rate."""
    return [
        {"method": fixed | dict(zip(options, values, strict=True)), "optimizer": {"learning_rate": rate}}
        for rate in rates
        for values in itertools.product(*options.values())
    ]


def numbered(candidates: Candidates) -> dict[str, dict[str, Any]]:
    return {f"{name} #{i}": own for name, settings in candidates.items() for i, own in enumerate(settings)}


def run_share(configs: Sequence[CompareConfig], share: int, number: int) -> None:
    """Of each table every so many'th row, whatever its seed."""
    for config in configs:
        names = [*dict.fromkeys(case.name for case in cases_of(config))]
        if mine := names[share::number]:
            run_compare(config, only=mine)


def run_shares(script: str, number: int) -> None:
    """Each in a process of its own; where one fails, those after it are ended."""
    words = [sys.executable, script, *sys.argv[1:], "--share"]
    running = [subprocess.Popen([*words, str(share)]) for share in range(number)]
    try:
        for process in running:
            if process.wait():
                sys.exit(process.returncode)
    finally:
        for process in running:
            process.terminate()


def rows_of(config: CompareConfig) -> dict[str, Row]:
    """Those that are there, by slug."""
    slugs = ["unscrubbed", "retrained", *(case.slug for case in cases_of(config))]
    read = {slug: read_row(Path(config.output) / "rows" / f"{slug}.json") for slug in slugs}
    return {slug: row for slug, row in read.items() if row is not None}


def rows_as_set(config: CompareConfig) -> dict[str, Row]:
    """Those that are there and of the settings that the comparison has now, by slug."""
    cases = {case.slug: case for case in cases_of(config)}
    return {slug: row for slug, row in rows_of(config).items() if slug not in cases or is_of(row, cases[slug])}


def value_of(row: Row, name: str) -> float:
    figure = (row.metrics | row.derived)[name]
    assert figure.value is not None, f"{row.name}: {figure.reason}"
    return figure.value


def choose(config: CompareConfig, candidates: Candidates, path: Path, about: str, kept: Sequence[str] = ()) -> None:
    """Writes the settings of each method that have the best score, and the whole search. config: of all candidates,
    `numbered`, with one seed."""
    found = rows_as_set(config)
    rows = {row.name: row for row in found.values()}
    missing = [name for name in config.methods if name not in rows]
    if missing:
        sys.exit(f"{len(missing)} rows of the search are missing, {missing[0]} for one: nothing is chosen")
    figures = {name: figures_of(rows[name], found["unscrubbed"], kept) for name in config.methods}
    scores = {name: [figures[f"{name} #{i}"]["score"] for i in range(len(own))] for name, own in candidates.items()}
    search = {name: figures[name] | own for name, own in numbered(candidates).items()}
    chosen = {name: candidates[name][own.index(max(own))] for name, own in scores.items()}
    write_json(path, {"about": about, "methods": chosen, "search": search})


def figures_of(row: Row, unscrubbed: Row, kept: Sequence[str] = ()) -> dict[str, float]:
    """ERR, which sees what the judge calls an image and not how it looks, and a score: the harmonic mean of ERR's three
    parts, the unscrubbed model's Fréchet distance over this one's, and each accuracy in `kept` over the unscrubbed
    model's, at most 1 each. All are 0 for a run that ended early.
    """
    name = next(name for name in unscrubbed.metrics if name.startswith("frechet_distance["))
    asked = {"err": ERR, "frechet_distance": name} | {metric: metric for metric in kept}
    measured = row.metrics | row.derived
    found = {told: figure.value or 0.0 if (figure := measured.get(metric)) else 0.0 for told, metric in asked.items()}
    if not all(found.values()):
        return found | {"score": 0.0}
    parts = [max(1.0, found["frechet_distance"] / value_of(unscrubbed, name))]
    parts += [max(1.0, value_of(unscrubbed, metric) / found[metric]) for metric in kept]
    return found | {"score": (3 + len(parts)) / (3 / found["err"] + sum(parts))}


def search_table(found: dict[str, Any]) -> str:
    """found: what `choose` wrote."""
    columns = [name for name in next(iter(found["search"].values())) if name not in ("method", "optimizer")]
    called = {"err": "ERR", "frechet_distance": "Fréchet distance"}
    heads = [called.get(name) or name.replace("_", " ") for name in columns]
    lines = [
        f"{found['about']}; the rows that were chosen are bold.",
        "",
        f"| method | settings | {' | '.join(heads)} |",
        "|---|---|" + "---|" * len(columns),
    ]
    for cells, own in searched(found):
        figures = (f"{own[name]:.{1 if name == 'frechet_distance' else 3}f}" for name in columns)
        lines.append(f"| {cells} | " + " | ".join(figures) + " |")
    return "\n".join(lines)
