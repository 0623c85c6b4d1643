"""An evaluation's figures on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..trainer.evidence.collect import Evidence
    from ..trainer.evidence.metrics import Measurement

_HEADINGS = {
    "p_psi": "P_psi ↓",
    "entropy": "entropy",
    "accuracy_remaining": "accuracy on the rest ↑",
    "frechet_distance": "Fréchet distance ↓",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "integrity_remaining": "change of the rest ↓",
    "integrity_forgotten": "change of the forgotten",
    "nearest_to_forget": "nearest to the forget set",
    "membership_auc": "membership AUC",
    "non_finite_samples": "non-finite samples",
}


def show(evidence: Evidence) -> None:
    """The table of metrics and models, each threshold with PASS or FAIL, and where record and report lie."""
    from rich.console import Console
    from rich.table import Table

    from ..trainer.evidence.thresholds import NOT_SHOWN

    record = evidence.record
    what = ", ".join(record.forgotten_classes) or f"{record.forget.num_samples} single samples"
    table = Table(title=f"forgotten: {what}", title_justify="left")
    for column in ("", *record.models, "n"):
        table.add_column(column, justify="right" if column else "left")
    for metric, scrubbed in record.models["scrubbed"].metrics.items():
        plain, _, extractor = metric.partition("[")
        name = _HEADINGS[plain] + (f" \\[{extractor}" if extractor else "")
        figures = [_figure(entry.metrics.get(metric), scrubbed.n) for entry in record.models.values()]
        table.add_row(name, *figures, str(scrubbed.n))
    console = Console()
    console.print(table)
    for model, entry in record.models.items():
        for metric, measurement in entry.metrics.items():
            if measurement.reason:
                print(f"  –     {metric} of the {model} model: {measurement.reason}")
    for verdict in record.thresholds:
        mark = "[green]PASS[/green]" if verdict.passed else "[red]FAIL[/red]"
        value = "no figure" if verdict.value is None else f"{verdict.value:.3f}"
        note = "; the unscrubbed model holds it too" if record.tells_nothing(verdict) else ""
        console.print(f"  {mark}  {verdict.threshold.replace('[', chr(92) + '[')}: {value}{note}")
    if not record.shows_forgetting:
        console.print(f"  [yellow]NOT SHOWN[/yellow]  {NOT_SHOWN}")
    judge = record.classifier
    print(f"judge    right on {judge.held_out_accuracy:.1%} of {judge.num_held_out} real images it did not see")
    print(f"record   {evidence.record_path}")
    print(f"report   {evidence.report_path}")


def _figure(measurement: Measurement | None, n: int) -> str:
    if measurement is None:
        return ""
    value = "–" if measurement.value is None else f"{measurement.value:.3f}".removesuffix(".000")
    return value if measurement.n == n else f"{value} (n = {measurement.n})"
