"""What outlier.py makes of its rows: each method's best settings, and the tables of its page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from erasediff.trainer.evidence.intervals import score_interval
from rows import searched

Figures = dict[str, Any]


def best_settings(candidates: Mapping[str, list[Figures]], rows: Mapping[str, Figures], about: str) -> Figures:
    """What outlier.json holds. rows: of every candidate, such as "siss #0", and of the retrained model."""
    retrained = rows["retrained"]
    search: dict[str, Figures] = {}
    chosen: dict[str, Figures] = {}
    for name, settings in candidates.items():
        own = [rows[f"{name} #{i}"] for i in range(len(settings))]
        factors = [_factor(row, retrained) for row in own]
        best = min(range(len(own)), key=lambda i: (own[i].get("num_crosses", math.inf), factors[i]))
        chosen[name] = settings[best]
        for i, (row, factor) in enumerate(zip(own, factors, strict=True)):
            kept = {key: row.get(key) for key in ("num_crosses", "num_samples", "bound", "frechet_distance", "failed")}
            search[f"{name} #{i}"] = settings[i] | kept | {"factor": factor if math.isfinite(factor) else None}
    about += (
        f" The factor is how many times the retrained model's bound ({retrained['bound']:.1f}) and distance "
        f"({retrained['frechet_distance']:.1f}) are missed, up or down, multiplied."
    )
    return {"about": about, "methods": chosen, "search": search}


def _factor(row: Figures, retrained: Figures) -> float:
    """By how much bound and distance miss the retrained model's, up or down, as a product of two factors: 1 is best."""
    if "failed" in row or row["bound"] <= 0:
        return math.inf
    return math.exp(sum(abs(math.log(row[name] / retrained[name])) for name in ("bound", "frechet_distance")))


def search_table(found: Figures) -> str:
    """found: as `best_settings` gives it."""
    lines = [
        f"{found['about']} The settings that were chosen are bold: the fewest crosses, then the smallest factor.",
        "",
        "| method | settings | crosses | −log p(cross) ≤, bits/pixel | Fréchet distance of the rest | factor |",
        "|---|---|---|---|---|---|",
    ]
    for told, row in searched(found):
        if row["failed"]:
            cells = [f"ended early: {row['failed']}", "–", "–", "–"]
        else:
            factor = "–" if row["factor"] is None else f"{row['factor']:.2f}"
            crosses = f"{row['num_crosses']} of {row['num_samples']:,}"
            cells = [crosses, f"{row['bound']:.1f}", f"{row['frechet_distance']:.1f}", factor]
        lines.append(f"| {told} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(rows: Mapping[str, Sequence[Figures | None]], about: Sequence[str]) -> str:
    """Mean ± standard deviation over seeds; what was not run, None, is named. rows: of every seed, by method."""
    lines, missing, known = [], [], []
    for name, own in rows.items():
        there = [row for row in own if row is not None]
        whole = [row for row in there if "failed" not in row]
        known += whole
        missing += [f"{name}: {len(there)} of {len(own)} rows"] * (len(there) < len(own))
        missing += [f"{name} ended early: {row['failed']}" for row in there if "failed" in row]
        shares = [row["num_crosses"] / row["num_samples"] for row in whole]
        # what the samples of the worst seed allow, at 95 %
        most = [score_interval(share, row["num_samples"])[1] for share, row in zip(shares, whole, strict=True)]
        cells = [
            _spread([100 * share for share in shares], 2),
            f"{100 * max(most):.2f}" if most else "–",
            _spread([row["bound"] for row in whole], 3),
            _spread([row["frechet_distance"] for row in whole], 2),
            _spread([row.get("seconds") for row in whole], 1),
        ]
        lines.append(f"| {name} | {len(whole)} | " + " | ".join(cells) + " |")
    features = ", ".join(sorted({row["features"] for row in known}))
    heading = f"| | seeds | crosses, % ↓ | most, % | −log p(cross) ≤, bits/pixel ↑ | FD[{features}] of the rest ↓ | s |"
    notes = ["", *(f"- {line}" for line in [*missing, *_samples(known), *about, *_made_by(known)])]
    return "\n".join([heading, "|---|---|---|---|---|---|---|", *lines, *notes]) + "\n"


def _samples(rows: Sequence[Figures]) -> list[str]:
    radius = next((row["radius"] for row in rows if "radius" in row), 0.0)
    counts = ", ".join(f"{count:,}" for count in sorted({row["num_samples"] for row in rows}))
    return [
        f"Samples of each model: {counts}; those within {radius:.2f} of the cross count (pixels in [-1, 1]). Most: the "
        "end of the worst seed's 95 % interval.",
    ]


def _made_by(rows: Sequence[Figures]) -> list[str]:
    told = [", ".join(sorted({row["provenance"][key] for row in rows})) for key in ("device", "date", "commit")]
    commands = ", ".join(f"`{command}`" for command in sorted({row["provenance"]["command"] for row in rows}))
    return [f"{told[0]}; {told[1]}; commit {told[2]}; {commands}."]


def _spread(values: Sequence[float | None], num_digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.{num_digits}f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.{num_digits}f}"
