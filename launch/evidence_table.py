"""An evaluation's figures on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..trainer.evidence.collect import Evidence
    from ..trainer.evidence.metrics import Measurement

_COLOURS = {"shown": "green", "not shown": "yellow", "failed": "red"}


def show(evidence: Evidence) -> None:
    """The table of metrics and models with half of each 95 % interval, which are within the noise of each other, what
    came of each threshold, the verdict, and where record and report lie."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..trainer.evidence.metric_table import change_of, extractor_of, row_of
    from ..trainer.evidence.noise import alike
    from ..trainer.evidence.thresholds import mark_of, said, why_not_shown

    record = evidence.record
    what = ", ".join(record.forgotten_classes) or f"{record.forget.num_samples} single samples"
    table = Table(title=f"forgotten: {escape(what)}", title_justify="left")
    for column in ("", *record.models, "n"):
        table.add_column(column, justify="right" if column else "left")
    for metric, scrubbed in record.models["scrubbed"].metrics.items():
        extractor = extractor_of(metric)
        name = row_of(metric).heading + (f" \\[{extractor}]" if extractor else "")
        before, figures = record.models["unscrubbed"].metrics.get(metric), []
        for model, entry in record.models.items():
            figure = entry.metrics.get(metric)
            change = change_of(metric, figure, None if model == "unscrubbed" else before)
            figures.append(_figure(figure, scrubbed.n, change))
        table.add_row(name, *map(escape, figures), str(scrubbed.n))
    console = Console()
    console.print(table)
    for other in record.models:
        if other != "scrubbed" and (names := [row_of(metric).title for metric in alike(record, other)]):
            print(f"  noise  these samples do not tell scrubbed from {other} by: {', '.join(names)}")
    for model, entry in record.models.items():
        for metric, measurement in entry.metrics.items():
            if measurement.reason:
                print(f"  –     {metric} of the {model} model: {measurement.reason}")
    for verdict in record.thresholds:
        mark, colour = mark_of(verdict)
        note = "; the unscrubbed model holds it too" if record.tells_nothing(verdict) else ""
        console.print(f"  [{colour}]{mark}[/{colour}]  {escape(verdict.threshold)}: {escape(said(verdict))}{note}")
    why = f": {why_not_shown(record.thresholds)}" if record.verdict == "not shown" else ""
    console.print(f"forgetting  [{_COLOURS[record.verdict]}]{record.verdict.upper()}[/]{escape(why)}")
    for line in record.advice:
        print(f"next     {line}")
    judge = record.classifier
    print(f"judge    right on {judge.held_out_accuracy:.1%} of {judge.num_held_out} real images it did not see")
    print(f"record   {evidence.record_path}")
    print(f"report   {evidence.report_path}")


def _figure(measurement: Measurement | None, n: int, change: str) -> str:
    if measurement is None:
        return ""
    value = "–" if measurement.value is None else f"{measurement.value:.3f}".removesuffix(".000")
    value += f" ({measurement.of_class})" if measurement.of_class is not None else ""
    value += f" ({change})" if change else ""
    if measurement.low is not None and measurement.high is not None:
        half = f"{(measurement.high - measurement.low) / 2:.2g}"
        value += f" ±{half.removeprefix('0') or half}"
    return value if measurement.n == n else f"{value} (n = {measurement.n})"
