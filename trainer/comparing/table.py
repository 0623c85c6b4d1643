"""The comparison as tables: a line for each row with mean and spread over seeds, and every figure of every run."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..config import CompareConfig
from ..config.compare import REFERENCES, RETRAINED, UNSCRUBBED
from ..config.toml import dump_toml
from ..evidence.metric_table import extractor_of, row_of
from ..files import write_text
from .cases import Case
from .derived import DISTANCE, ERR, RELEARNING_AREA
from .rows import Row, Training, is_of

NAME = "comparison"
# what a table of a page's width shows, of the metrics that were measured; the rest is in the CSV
_SHOWN = (
    *("p_psi", "p_psi_worst_class", "p_psi_worst_phrasing", "entropy", "unlearning_accuracy"),
    *("p_psi_inverted", "p_psi_attacked"),
    *("exposed_forgotten", "clip_score_forgotten", "membership_auc", "nearest_to_forget"),
    *("accuracy_remaining", "accuracy_worst_class", "factor_accuracy_remaining", "factor_accuracy_forgotten"),
    *("frechet_distance", "kernel_distance", "precision", "recall", "clip_score_remaining"),
    *("integrity_forgotten", "integrity_remaining", "integrity_near", "integrity_far"),
)


@dataclass(frozen=True)
class Column:
    """One figure of every row."""

    heading: str
    about: str
    value: Callable[[Row], float | None]
    num_digits: int = 3


@dataclass(frozen=True)
class Line:
    """A row of the table: a model, or a method's models from several seeds."""

    name: str
    rows: list[Row]
    """Those that were made, failed ones too."""
    num_wanted: int
    left_out: list[str] = field(default_factory=list)
    """Why, for each row that is there and not shown."""

    @property
    def whole(self) -> list[Row]:
        return [row for row in self.rows if row.failed is None]

    @property
    def verdicts(self) -> str:
        counts = Counter(row.verdict for row in self.whole if row.verdict is not None)
        told = [verdict if count == self.num_wanted else f"{count} {verdict}" for verdict, count in counts.items()]
        num_failed = len(self.rows) - len(self.whole)
        return ", ".join([*told, *([f"{num_failed} ended early"] if num_failed else [])])


def lines_of(config: CompareConfig, cases: Sequence[Case], rows: Mapping[str, Row]) -> list[Line]:
    """The references, then every method, whether it was run or not. rows: by slug."""
    by = None if UNSCRUBBED not in rows else rows[UNSCRUBBED].measured_by
    wanted: dict[str, list[tuple[str, Case | None]]] = {name: [(name, None)] for name in REFERENCES}
    for case in cases:
        wanted.setdefault(case.name, []).append((case.slug, case))
    found = []
    for name, own in wanted.items():
        there = [(rows[slug], case) for slug, case in own if slug in rows]
        reasons = [_why_left_out(row, case, by) for row, case in there]
        shown = [row for (row, _), why in zip(there, reasons, strict=True) if why is None]
        found.append(Line(name, shown, len(own), [why for why in reasons if why is not None]))
    return found


def _why_left_out(row: Row, case: Case | None, by: str | None) -> str | None:
    """None for a row that is shown. case: None of a reference; by: what measured the unscrubbed model, where known."""
    if case is not None and not is_of(row, case):
        return "of other settings"
    return "measured by another judge" if row.failed is None and by not in (None, row.measured_by) else None


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """Those that some row has a figure for."""
    metrics = dict.fromkeys(name for row in rows for name in row.metrics)
    shown = [name for base in _SHOWN for name in metrics if name.partition("[")[0] == base]
    columns = [_of_metric(name) for name in shown]
    columns += [
        _of_derived(RELEARNING_AREA, "relearning ↓", "mean height of P_psi's curve while fine-tuned on forget images"),
        _of_derived(DISTANCE, "to retrained ↓", "feature distance to the retrained model's images from the same noise"),
        _of_derived(ERR, "ERR ↑", "harmonic mean of erasure, retention and robustness"),
        _of_training("gradients", "of a batch, all", lambda it: it.num_gradients, 0),
        _of_training("before", "of them before the first iteration", lambda it: it.num_preparing_gradients or None, 0),
        _of_training("s", "seconds of the iterations", lambda it: it.seconds, 1),
        _of_training("s before", "seconds before the first", lambda it: it.preparing_seconds, 1),
        _of_training("peak MB", "most memory of a rank", lambda it: _megabytes(it.peak_bytes), 0),
        _of_training(
            "capped %", "share of steps where λ_t was cut", lambda it: 100 * it.capped_steps / it.num_steps, 0
        ),
    ]
    return [column for column in columns if any(column.value(row) is not None for row in rows)]


def _of_metric(name: str) -> Column:
    about, extractor = row_of(name), extractor_of(name)
    heading = about.heading if not extractor else f"{about.heading} [{extractor}]"

    def value(row: Row) -> float | None:
        return row.metrics[name].value if name in row.metrics else None

    return Column(heading, about.meaning, value)


def _of_derived(name: str, heading: str, about: str) -> Column:
    return Column(heading, about, lambda row: row.derived[name].value if name in row.derived else None)


def _of_training(heading: str, about: str, value: Callable[[Training], float | None], num_digits: int) -> Column:
    return Column(heading, about, lambda row: None if row.training is None else value(row.training), num_digits)


def _megabytes(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else num_bytes / 1e6


def cell(column: Column, line: Line) -> str:
    """Mean ± standard deviation over the seeds that have the figure."""
    values = [value for row in line.whole if (value := column.value(row)) is not None]
    if not values:
        return "–"
    mean = f"{statistics.mean(values):,.{column.num_digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):,.{column.num_digits}f}"


def gaps(lines: Sequence[Line]) -> list[str]:
    """What is missing from the table, in words; the first says what makes it incomplete."""
    found = []
    for line in lines:
        for why, number in Counter(line.left_out).items():
            found.append(f"{line.name}: {number} {why} left out; run the comparison again.")
        if line.name == RETRAINED and not line.rows:
            found.append(
                "Incomplete: there is no retrained model, which the others are to be held against (judge.retrained, "
                "judge.with_retrained)."
            )
        elif line.name == UNSCRUBBED and not line.rows:
            found.append("Incomplete: the unscrubbed model was not measured yet.")
        elif (number := len(line.rows) + len(line.left_out)) < line.num_wanted:
            found.append(f"{line.name}: {number} of {line.num_wanted} seeds were run.")
        found += [note for row in line.rows for note in row.notes]
        found += [f"{line.name}, seed {row.seed}, ended early: {row.failed}" for row in line.rows if row.failed]
    return found


def provenance(config: CompareConfig, rows: Sequence[Row]) -> list[str]:
    """Where the figures come from."""
    dates = sorted({row.date[:10] for row in rows})
    devices = sorted({row.device for row in rows})
    named = dict.fromkeys(f"{name} {version}" for row in rows for name, version in row.versions.items())
    judge, budget = config.judge, config.budget
    allowed = [f"{value:g} {name}" for name, value in vars(budget).items() if value is not None]
    counts = {row.metrics[name].n for row in rows for name in ("accuracy_remaining",) if name in row.metrics}
    return [
        f"Command: erasediff compare {Path(config.output) / f'{NAME}.toml'}",
        f"Device: {', '.join(devices)}; {dates[0]}{'' if len(dates) < 2 else f' to {dates[-1]}'}; {', '.join(named)}",
        f"Seeds: {', '.join(map(str, config.seeds))}; mean ± standard deviation over them",
        f"Budget: {allowed[0] if allowed else 'what each method’s settings say'}",
        f"Samples: {judge.num_forget_samples_per_class} of each forgotten class, "
        f"{judge.num_remain_samples_per_class} of each remaining one (n = {', '.join(map(str, sorted(counts)))}), seed "
        f"{judge.sampling.seed}, the same noise for every model",
    ]


def markdown(config: CompareConfig, lines: Sequence[Line]) -> str:
    """The table with what is missing and where it comes from."""
    rows = [row for line in lines for row in line.whole]
    columns = columns_of(rows)
    text = [
        "| | seeds | " + " | ".join(column.heading for column in columns) + " | verdict |",
        "|---|---|" + "---|" * (len(columns) + 1),
    ]
    for line in lines:
        cells = [cell(column, line) for column in columns]
        text.append(f"| {line.name} | {len(line.whole)} | " + " | ".join(cells) + f" | {line.verdicts} |")
    text += ["", *(f"- {gap}" for gap in gaps(lines))]
    return "\n".join([*text, *(f"- {line}" for line in provenance(config, rows))] if rows else text) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """Every figure of each row, a line each; with the ends of a figure's interval where it has one."""
    found = []
    for row in rows:
        values: dict[str, object] = {"name": row.name, "seed": row.seed, "verdict": row.verdict, "failed": row.failed}
        values |= {"date": row.date, "device": row.device} | {
            f"varied {key}": value for key, value in row.varied.items()
        }
        for name, figure in (row.metrics | row.derived).items():
            values |= {name: figure.value, f"{name} n": figure.n}
            if figure.low is not None:
                values |= {f"{name} low": figure.low, f"{name} high": figure.high}
        values |= {f"P_psi relearned {point.step}": point.p_psi for point in row.relearning}
        found.append(values | ({} if row.training is None else vars(row.training)))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*dict.fromkeys(name for values in found for name in values)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def write_tables(config: CompareConfig, cases: Sequence[Case], rows: Mapping[str, Row]) -> None:
    """comparison.csv, comparison.md, and comparison.toml, of which the same comparison can be made again."""
    folder, lines = Path(config.output), lines_of(config, cases, rows)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{NAME}.toml", dump_toml(config))
    write_text(folder / f"{NAME}.csv", as_csv([row for line in lines for row in line.rows]))
    write_text(folder / f"{NAME}.md", markdown(config, lines))
