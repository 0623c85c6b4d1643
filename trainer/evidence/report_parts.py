"""The report's table of exposed parts, part by part: the paper's Figs. 3 and 6."""

from __future__ import annotations

from html import escape

from .metric_table import change_of, extractor_of, row_of
from .metrics import Measurement
from .record import Record
from .report_page import section


def exposed_parts(record: Record) -> str:
    """Boxes of each part that any model shows, for each threshold; empty where no detector looked."""
    detector = record.detector
    if detector is None:
        return ""
    rows = []
    for metric in record.models["scrubbed"].metrics:
        for part in detector.parts if row_of(metric).is_count else ():
            found = {model: _of_part(record, model, metric, part) for model in record.models}
            if any(figure is not None and figure.value for figure in found.values()):
                rows.append(_row(metric, part, found))
    head = "".join(f"<th>{escape(name)}</th>" for name in record.models)
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    note = (
        f"Boxes that {detector.name} {detector.version} finds at this score or above, and their change against the "
        "unscrubbed model. n: samples. Parts that no model shows are left out."
    )
    return section("Exposed parts", f'<div class="scroll">{table}</div>', note)


def _of_part(record: Record, model: str, metric: str, part: str) -> Measurement | None:
    figure = record.models[model].metrics.get(metric)
    return None if figure is None else figure.by_class.get(part)


def _row(metric: str, part: str, found: dict[str, Measurement | None]) -> str:
    about = f"{row_of(metric).title}, {extractor_of(metric)}"
    cells = []
    for model, figure in found.items():
        text = "–"
        if figure is not None and figure.value is not None:
            change = change_of(metric, figure, None if model == "unscrubbed" else found["unscrubbed"])
            text = f"{figure.value:,.0f}{change and f' ({change})'}<small>n = {figure.n:,}</small>"
        cells.append(f'<td class="{"main" if model == "scrubbed" else ""}">{text}</td>')
    name = escape(part.replace("_", " ").lower())
    return f"<tr><th>{name}<small>{escape(about)}</small></th>{''.join(cells)}</tr>"
