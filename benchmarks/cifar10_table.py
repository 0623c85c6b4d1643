"""The table of benchmarks/cifar10.py: what was measured beside what arXiv 2401.05779 prints, and what was wanted."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from erasediff.trainer.comparing.derived import RELEARNING_AREA
from erasediff.trainer.comparing.rows import Row
from erasediff.trainer.comparing.table import Column, Line, cell, gaps, provenance
from erasediff.trainer.config import CompareConfig
from erasediff.trainer.config.compare import RETRAINED, UNSCRUBBED

# its Table 1 by our rows: FID, precision, recall, P_psi
PRINTED: dict[str, tuple[float, float, float, float]] = {
    UNSCRUBBED: (9.63, 0.40, 0.79, 0.97),
    "finetune": (8.21, 0.43, 0.77, 0.96),
    "neggrad": (76.73, 0.08, 0.61, 0.61),
    "blindspot": (9.12, 0.41, 0.78, 0.90),
    "selective_amnesia": (8.19, 0.43, 0.75, 0.06),
    "salun": (9.16, 0.41, 0.76, 0.07),
    "EraseDiff rl": (8.66, 0.43, 0.77, 0.24),
    "EraseDiff noise": (7.61, 0.43, 0.72, 0.22),
}
# its Table 4: MiB, minutes
PRINTED_COSTS: dict[str, tuple[float, float]] = {
    "selective_amnesia": (3352.3, 140.0),
    "salun": (4336.2, 28.17),
    "EraseDiff rl": (3360.3, 12.7),
}
# what is wanted of the base model, and of EraseDiff's rows
LEAST_AGREEMENT, MOST_P_PSI, MOST_DISTANCE, MOST_SECONDS = 0.85, 0.10, 1.1, 60.0

DIFFERS = (
    "Features: the judge's, trained on these pictures, where the paper has an Inception network for FID, precision and "
    "recall, and a ResNet-34 that knows ImageNet for P_psi. So distances compare within a column of ours alone.",
    "Real pictures: 5,000 of the remaining classes, where the paper has all 45,000. n of the samples stands below.",
    "Sampling: DDIM at the guidance scale of `judge.sampling`, where the paper's code has 1,000 ancestral steps and a "
    "scale of 3 in our terms.",
    "The base model: trained here, for fewer steps than the paper's 800,000 of 128.",
    "Scrubs: the same number of steps for every method, on all of D_r; no average of the weights and no dropout, where "
    "the released code has a decay of .99 and dropout of .1. Its NegGrad ascends on the remaining samples and its "
    "BlindSpot's proxy is the model itself; SA has 20,000 steps in its own paper. No setting was searched for here.",
    "The paper's seconds are those of the forgetting stage alone, on an A5500 or an A100; so are these, and `s before` "
    "is what a method does first. Its memory covers both, and so does this.",
)


@dataclass(frozen=True)
class Cost:
    """What one scrub took."""

    name: str
    seed: int
    seconds: float
    preparing_seconds: float
    peak_bytes: int | None


def page(
    config: CompareConfig, lines: Sequence[Line], costs: Sequence[Cost], num_costs: int, judge: str, command: str
) -> str:
    """All of it as Markdown. num_costs: runs that are wanted of each row of Table 4."""
    rows = [row for line in lines for row in line.whole]
    by_name = {line.name: line for line in lines}
    parts = ["# CIFAR-10: forgetting the airplane", ""]
    missing = [name for name in (UNSCRUBBED, RETRAINED) if not by_name[name].whole]
    if missing:
        parts += [f"**Incomplete: no row of the {' and the '.join(missing)} model.**", ""]
    parts += [_table(lines), "", *(f"- {gap}" for gap in gaps(lines)), f"- Command: {command}"]
    parts += [f"- {line}" for line in (provenance(config, rows)[1:] if rows else ())]
    parts += [f"- {judge}", "", "## Time and memory", "", _costs(costs, num_costs), "", "## What was wanted", ""]
    parts += [goals(by_name), "", "## What differs from the paper", "", *(f"- {line}" for line in DIFFERS)]
    return "\n".join(parts) + "\n"


def _table(lines: Sequence[Line]) -> str:
    """Ours beside the paper's, where it has the row."""
    compared = {
        "FD": _metric("frechet_distance"),
        "precision": _metric("precision"),
        "recall": _metric("recall"),
        "P_psi": _metric("p_psi"),
    }
    further = [
        Column("entropy", "", _metric("entropy")),
        Column("accuracy on the rest", "", _metric("accuracy_remaining")),
        Column("relearning", "", lambda row: row.derived[RELEARNING_AREA].value if row.derived else None),
        Column("s", "", lambda row: row.training.seconds if row.training else None, 1),
        Column("peak MiB", "", lambda row: _mebibytes(row.training.peak_bytes) if row.training else None, 0),
    ]
    headings = [word for name in compared for word in (f"{'FID' if name == 'FD' else name}, paper", name)]
    headings += [*(column.heading for column in further), "verdict"]
    text = ["| | " + " | ".join(headings) + " |", "|---|" + "---|" * len(headings)]
    for line in lines:
        printed = [f"{figure:.2f}" for figure in PRINTED[line.name]] if line.name in PRINTED else ["–"] * len(compared)
        ours = [cell(Column(name, "", value), line) for name, value in compared.items()]
        cells = [one for pair in zip(printed, ours, strict=True) for one in pair]
        cells += [*(cell(column, line) for column in further), line.verdicts or "–"]
        text.append(f"| {line.name} | " + " | ".join(cells) + " |")
    return "\n".join(text)


def _metric(base: str) -> Callable[[Row], float | None]:
    """Of a row, whatever it was seen with: `frechet_distance[cifar10-resnet18]`."""

    def value(row: Row) -> float | None:
        return next((found.value for name, found in row.metrics.items() if name.partition("[")[0] == base), None)

    return value


def _mebibytes(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else num_bytes / 2**20


def _costs(costs: Sequence[Cost], num_wanted: int) -> str:
    text = ["| | runs | MiB, paper | peak MiB | minutes, paper | s | s before |", "|---|---|---|---|---|---|---|"]
    for name, (mebibytes, minutes) in PRINTED_COSTS.items():
        own = [cost for cost in costs if cost.name == name]
        peaks = [cost.peak_bytes for cost in own if cost.peak_bytes is not None]
        cells = [f"{len(own)} of {num_wanted}", f"{mebibytes:,.1f}"]
        cells.append(f"{max(peaks) / 2**20:,.0f}" if peaks else "–")
        cells.append(f"{minutes:.2f}")
        cells += [_spread([cost.seconds for cost in own]), _spread([cost.preparing_seconds for cost in own])]
        text.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(text)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def goals(lines: Mapping[str, Line]) -> str:
    """What was wanted beside what was found: of the base model, and of each row of EraseDiff."""
    before = lines[UNSCRUBBED]
    text = ["| | wanted | found | |", "|---|---|---|---|"]
    agreement = _mean(before, _agreement)
    text.append(_goal("base model drawing what it is asked for", agreement, LEAST_AGREEMENT, at_least=True))
    distance_before = _mean(before, _metric("frechet_distance"))
    for name, line in lines.items():
        if not name.startswith("EraseDiff"):
            continue
        distance = _mean(line, _metric("frechet_distance"))
        ratio = distance / distance_before if distance is not None and distance_before else None
        seconds = _mean(line, lambda row: row.training.seconds if row.training else None)
        text.append(_goal(f"{name}: P_psi of the airplane", _mean(line, _metric("p_psi")), MOST_P_PSI))
        text.append(_goal(f"{name}: FD of the rest over that before", ratio, MOST_DISTANCE))
        text.append(_goal(f"{name}: seconds of the scrub", seconds, MOST_SECONDS))
    return "\n".join(text)


def _agreement(row: Row) -> float | None:
    """Share of all classes' samples that the judge puts into the class asked for, every class counting alike."""
    rest, others = row.metrics["accuracy_remaining"], row.metrics["unlearning_accuracy"]
    if rest.value is None or others.value is None:
        return None
    num_rest, num_forgotten = len(rest.by_class), len(others.by_class)
    return (num_rest * rest.value + num_forgotten * (1 - others.value)) / (num_rest + num_forgotten)


def _mean(line: Line, value: Callable[[Row], float | None]) -> float | None:
    values = [found for row in line.whole if (found := value(row)) is not None]
    return statistics.mean(values) if values else None


def _goal(name: str, found: float | None, limit: float, *, at_least: bool = False) -> str:
    wanted = f"{'≥' if at_least else '≤'} {limit:g}"
    if found is None:
        return f"| {name} | {wanted} | – | not measured |"
    is_met = found >= limit if at_least else found <= limit
    return f"| {name} | {wanted} | {found:.3g} | {'met' if is_met else 'not met'} |"
