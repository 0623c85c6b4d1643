"""The report, report.html: the record for people. Pictures, table, curves, and what is left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from ..config.thresholds import parse_threshold
from ..config.toml import flatten
from .bench import Bench, Samples
from .intervals import score_interval
from .metric_table import ceiling_of, change_of, extractor_of, row_of
from .metrics import Measurement
from .noise import alike
from .record import Record
from .report_charts import all_charts
from .report_page import definitions, details, page, section
from .report_parts import exposed_parts
from .report_pictures import MAX_CLASSES, grids
from .thresholds import Verdict, mark_of, said, why_not_shown

_BADGES = {"shown": "pass", "not shown": "open", "failed": "fail"}


def write_report(
    record: Record,
    samples: Mapping[str, Samples],
    bench: Bench,
    steps: Sequence[Mapping[str, Any]],
    path: Path,
) -> None:
    """Writes the report whole or not at all. `steps` are the lines of metrics.jsonl."""
    parts = [head(record), grids(samples, bench), _table(record), exposed_parts(record), _classes(record)]
    parts += [all_charts(record, steps), _copies(record), _provenance(record)]
    text = page(f"Erasure report: {_forgotten(record)}", "\n".join(part for part in parts if part))
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def _forgotten(record: Record) -> str:
    names = record.forgotten_classes
    if not names:
        return f"{record.forget.num_samples:,} single samples"
    return ("class " if len(names) == 1 else "classes ") + ", ".join(names)


def head(record: Record) -> str:
    """What was forgotten, the verdict on it, and each threshold's."""
    shown = sum(verdict.shown for verdict in record.thresholds)
    badge = (
        f'<span class="badge {_BADGES[record.verdict]}">Forgetting {record.verdict} · {shown} of '
        f"{len(record.thresholds)} thresholds shown to hold</span>"
        + (f"<br>Why: {escape(why_not_shown(record.thresholds))}." if record.verdict == "not shown" else "")
        + "".join(f"<br>Next: {escape(line)}." for line in record.advice)
    )
    request = f"request {record.request.id} · " if record.request.id else ""
    verdicts = "".join(map(partial(_verdict, record), record.thresholds))
    return (
        f'<p class="eyebrow">Erasure report · {escape(request)}{escape(record.date[:10])}</p>'
        f"<h1>Forgotten: {escape(_forgotten(record))}</h1><p>{badge}</p>"
        f'<p class="soft">{record.forget.num_samples:,} samples forgotten, {record.remain.num_samples:,} kept. '
        f'{escape(record.statement)}</p><div class="verdicts">{verdicts}</div>'
    )


def _verdict(record: Record, verdict: Verdict) -> str:
    """A threshold's card: the figure, what came of it, which direction is good and what it is compared with."""
    threshold = parse_threshold(verdict.threshold)
    metrics = record.models["scrubbed"].metrics
    measurement = metrics[threshold.metric]
    if verdict.of_class is not None:
        measurement = metrics[row_of(threshold.metric).worst_of or ""].by_class[verdict.of_class]
    mark, _ = mark_of(verdict)
    state = {
        "PASS": ("", "pass"),
        "FAIL": (" failed", "fail"),
        "TOO FEW": (" open", "open"),
        "NO FIGURE": (" open", "open"),
    }[mark]
    compared = "a fixed limit" if threshold.model is None else f"the {threshold.model} model"
    notes = [
        f"{'lower' if threshold.at_most else 'higher'} is better, compared with {compared}",
        escape(said(verdict)),
        _about(measurement),
        *(["the unscrubbed model holds it too"] if record.tells_nothing(verdict) else []),
    ]
    return (
        f'<div class="verdict{state[0]}"><b>{_number(verdict.value)}</b> '
        f'<span class="badge {state[1]}">{mark}</span><code>{escape(verdict.threshold)}</code>'
        f'<small class="soft">{"; ".join(notes)}</small></div>'
    )


def _about(measurement: Measurement) -> str:
    """What a figure rests on, how far it may be off, and why there is none where there is none."""
    why_not = f"; {escape(measurement.reason)}" if measurement.reason else ""
    interval = ""
    if measurement.low is not None and measurement.high is not None:
        interval = f", 95 %: {_number(measurement.low)} to {_number(measurement.high)}"
    of_class = f"class {escape(measurement.of_class)}, " if measurement.of_class is not None else ""
    return f"{of_class}n = {measurement.n:,}{interval}{why_not}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 and value != int(value) else f"{value:.4g}"


def _table(record: Record) -> str:
    models = list(record.models)
    head = "".join(f"<th>{escape(name)}</th>" for name in models)
    rows = []
    for metric in record.models["scrubbed"].metrics:
        entry, extractor = row_of(metric), extractor_of(metric)
        about = f"{entry.meaning}, on {extractor}" if extractor else entry.meaning
        if entry.better == "near the retrained model's":
            about += "; good: near the retrained model's"
        cells = "".join(
            f'<td class="{"main" if model == "scrubbed" else ""}">{_cell(record, model, metric)}</td>'
            for model in models
        )
        rows.append(f"<tr><th>{escape(entry.heading)}<small>{escape(about)}</small></th>{cells}</tr>")
    retrained = record.models.get("retrained")
    recorded = ""
    if retrained is not None:
        recorded = " The measure is the retrained model, trained without the forget set, not zero."
        if retrained.measured != record.date:
            recorded += f" Its figures were recorded on {retrained.measured[:10]}."
    card = record.classifier
    low, high = score_interval(card.held_out_accuracy, card.num_held_out)
    note = (
        "n beneath each figure: generated samples, for membership real ones; then its 95 % interval. Within the noise: "
        f"the samples do not tell the two apart.{recorded} The judge is right on {card.held_out_accuracy:.1%} (95 %: "
        f"{low:.1%} to {high:.1%}) of {card.num_held_out:,} real images it did not see."
    )
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return section("Side by side", f'<div class="scroll">{table}</div>', note)


def _classes(record: Record) -> str:
    """Class by class, the forgotten first: what a mean hides."""
    models = list(record.models)
    head = "".join(f"<th>{escape(name)}</th>" for name in models)
    rows, left_out = [], 0
    for metric in ("p_psi", "accuracy_remaining"):
        ours = record.models["scrubbed"].metrics.get(metric)
        names = [] if ours is None else list(ours.by_class)
        if ours is not None and len(names) > MAX_CLASSES:  # those that changed most
            names.sort(key=lambda name: _change(record, metric, name), reverse=True)
            left_out += len(names) - MAX_CLASSES
        for name in names[:MAX_CLASSES]:
            measurements = [record.models[model].metrics[metric].by_class.get(name) for model in models]
            cells = "".join(
                f'<td class="{"main" if model == "scrubbed" else ""}">{_figure(measurement)}</td>'
                for model, measurement in zip(models, measurements, strict=True)
            )
            about = "forgotten: P_psi ↓" if metric == "p_psi" else "kept: accuracy ↑"
            rows.append(f"<tr><th>{escape(name)}<small>{escape(about)}</small></th>{cells}</tr>")
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    more = f" {left_out} more classes, which changed less, are in record.json." if left_out else ""
    note = f"A mean hides a class that was not forgotten, and one that was harmed. 95 % intervals, Wilson's.{more}"
    return section("Class by class", f'<div class="scroll">{table}</div>', note)


def _change(record: Record, metric: str, name: str) -> float:
    before, after = (record.models[model].metrics[metric].by_class[name].value for model in ("unscrubbed", "scrubbed"))
    return float("inf") if before is None or after is None else abs(after - before)


def _figure(measurement: Measurement | None, change: str = "", noise: str = "") -> str:
    if measurement is None:
        return "–"
    return f"{_number(measurement.value)}{change and f' ({change})'}<small>{_about(measurement)}{noise}</small>"


def _cell(record: Record, model: str, metric: str) -> str:
    measurement: Measurement | None = record.models[model].metrics.get(metric)
    if measurement is None:
        return "–"
    name = ceiling_of(metric)
    if name is not None and model == "unscrubbed":
        ceiling = record.models[model].metrics[name]
        about = f"floor, {_about(measurement)}<br>ceiling {_number(ceiling.value)}, {_about(ceiling)}"
        return f"{_number(measurement.value)}<small>{about}</small>"
    before = None if model == "unscrubbed" else record.models["unscrubbed"].metrics.get(metric)
    others = [other for other in record.models if other != model == "scrubbed" and metric in alike(record, other)]
    noise = f"<br>within the noise of {' and '.join(others)}" if others else ""
    return _figure(measurement, change_of(metric, measurement, before), noise)


def _copies(record: Record) -> str:
    """Those that are still to go first."""
    order = ("not reached", "not ours", "reached")
    items = "".join(
        f'<li><span class="badge {"pass" if copy.reach == "reached" else "open"}">{copy.reach}</span> '
        f"{escape(copy.holds)}<br><code>{escape(copy.path)}</code></li>"
        for copy in sorted(record.copies, key=lambda copy: order.index(copy.reach))
    )
    note = (
        "Reached: scrubbed, or it never saw the forgotten. Not reached: in this erasure's own folder; `erasediff erase "
        "… --delete-copies` deletes it once a model is published. Not ours: elsewhere, to be deleted, or kept for a "
        "stated reason. What nobody wrote down is not listed: backups, copies made by hand."
    )
    return section(f"Every copy: {record.reach}", f'<ul class="copies">{items}</ul>', note)


def _provenance(record: Record) -> str:
    models = record.models.items()
    hashes = {f"{name} {what}": sha256 for name, entry in models for what, sha256 in entry.stamp.hashes().items()}
    hashes |= {"forget set": record.forget.fingerprint, "remain set": record.remain.fingerprint}
    run = record.run
    happened: dict[str, object] = {
        "steps": run.num_steps,
        "capped": run.capped_steps,
        "infeasible": run.infeasible_steps,
        "skipped": run.skipped_steps,
        "interruptions": run.interruptions,
    }
    request: dict[str, object] = {
        "file": record.absolute_paths.get(record.request.path, record.request.path) or "none",
        "SHA-256 of the file": record.request.sha256 or "–",
        "samples named by key": f"{record.request.keys_found:,} of {record.request.keys_asked:,} found",
        "samples to be forgotten": f"{record.forget.num_samples:,}",
        "entry before, SHA-256": record.place.previous_sha256 or "none",
        "written": f"{record.place.written} on {record.place.host}",
        "follows": "no earlier request",
    }
    if record.follows is not None:
        request["follows"] = f"{record.follows.path}, SHA-256 {record.follows.sha256}"
    entry = f"records/{record.place.number:04d}.json"
    return section(
        "Where this comes from",
        details("Request, and place among the records", definitions(request))
        + details("SHA-256 of weights and sets", definitions(dict(hashes)))
        + details("Scrub configuration", definitions(flatten(record.config)))
        + details("Evaluation configuration", definitions(flatten(record.judge)))
        + details("Run", definitions(happened))
        + details("Versions", definitions(dict(record.versions))),
        f"{entry} beside this file holds all of it for machines; record.json is the newest.",
    )
