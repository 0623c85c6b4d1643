"""comparison.html: the table, the trade-off with its Pareto front, what each setting does, curves, and pictures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ..config import CompareConfig
from ..config.compare import REFERENCES
from ..config.toml import as_dict, flatten
from ..evidence import charts
from ..evidence.charts import Axis, Series
from ..evidence.report_page import definitions, details, page, section
from ..evidence.report_pictures import data_url
from ..files import write_text
from .cases import Case
from .rows import Row
from .table import NAME, Column, Line, cell, columns_of, gaps, lines_of, provenance

_MAX_PICTURES = 24


def write_page(config: CompareConfig, cases: Sequence[Case], rows: Mapping[str, Row]) -> Path:
    """Writes the page whole or not at all."""
    lines = lines_of(config, cases, rows)
    whole = [row for line in lines for row in line.whole]
    parts = [_head(config, lines), _table(lines, columns_of(whole)), _charts(lines), _pictures(config, cases, lines)]
    if whole:
        about = "".join(f"<li>{escape(text)}</li>" for text in provenance(config, whole))
        settings = details("All settings", definitions(flatten(as_dict(config))))
        parts.append(section("Where this comes from", f"<ul>{about}</ul>{settings}"))
    path = Path(config.output) / f"{NAME}.html"
    write_text(path, page("Comparison of methods", "\n".join(part for part in parts if part)))
    return path


def _head(config: CompareConfig, lines: Sequence[Line]) -> str:
    missing = "".join(f"<li>{escape(gap)}</li>" for gap in gaps(lines))
    num_methods = len(lines) - len(REFERENCES)
    title = f"{num_methods} way{'s' if num_methods != 1 else ''} to forget {escape(_forgotten(config, lines))}"
    return (
        f'<p class="eyebrow">Comparison · {escape(config.model.path)}</p><h1>{title}</h1>'
        '<p class="soft">The same model, sets, samples and judge for every row. The measure is the retrained model.</p>'
        + (f"<ul>{missing}</ul>" if missing else "")
    )


def _forgotten(config: CompareConfig, lines: Sequence[Line]) -> str:
    """The classes, where they are whole ones and some model has been asked for them."""
    figures = (row.metrics.get("p_psi") for line in lines for row in line.whole)
    names = next(([*figure.by_class] for figure in figures if figure is not None), [])
    return ", ".join(names) or config.forget


def _table(lines: Sequence[Line], columns: Sequence[Column]) -> str:
    head = "".join(
        f'<th title="{escape(column.about, quote=True)}">{escape(column.heading)}</th>' for column in columns
    )
    rows = []
    for line in lines:
        cells = "".join(f"<td>{escape(cell(column, line))}</td>" for column in columns)
        about = escape(f"{len(line.whole)} of {line.num_wanted} · {line.verdicts}".rstrip(" ·"))
        rows.append(f"<tr><th>{escape(line.name)}<small>{about}</small></th>{cells}</tr>")
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    note = "Mean ± standard deviation over seeds. Every figure of every run is in comparison.csv."
    return section("Side by side", f'<div class="scroll">{table}</div>', note)


def _charts(lines: Sequence[Line]) -> str:
    shown = [chart for chart in (_trade_off(lines), _curves(lines), *_by_setting(lines)) if chart]
    return f'<div class="pair">{"".join(shown)}</div>' if shown else ""


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other is at least as good as in both, and better in one, where less is better; by their first."""
    best = float("inf")
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points)):
        if y < best:
            front.append((x, y))
            best = y
    return front


def _trade_off(lines: Sequence[Line]) -> str:
    """What is left of the forgotten against how far the rest is from real, a dot a row."""
    left = _first_metric(lines, ("p_psi", "membership_gap"))
    quality = _first_metric(lines, ("frechet_distance", "kernel_distance"))
    marks = []
    for line in lines:
        x, y = _mean(line, left), _mean(line, quality)
        if x is not None and y is not None:
            marks.append(Series(line.name, line.name if line.name in REFERENCES else "method", [(x, y)]))
    methods = [mark.points[0] for mark in marks if mark.kind == "method"]
    if not methods:
        return ""
    xs, ys = zip(*(mark.points[0] for mark in marks), strict=True)
    front = pareto_front(methods)
    chart = charts.dots(
        marks, Axis.around(left, xs, low=0), Axis.around(quality, ys, low=0), "forgetting against quality", front
    )
    note = (
        f"Both are better when smaller. The dashed line is the methods' Pareto front ({len(front)} of {len(methods)})."
    )
    return section("Forgetting against quality", f"<figure>{chart}</figure>", note)


def _first_metric(lines: Sequence[Line], bases: Sequence[str]) -> str:
    names = dict.fromkeys(name for line in lines for row in line.whole for name in row.metrics)
    return next((name for base in bases for name in names if name.partition("[")[0] == base), "")


def _mean(line: Line, metric: str) -> float | None:
    values = [row.metrics[metric].value for row in line.whole if metric in row.metrics]
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _curves(lines: Sequence[Line]) -> str:
    """P_psi while a model is fine-tuned on forget images: the references and every method, the mean over seeds."""
    series = []
    for line in lines:
        curves = [[(float(p.step), p.p_psi) for p in row.relearning if p.p_psi is not None] for row in line.whole]
        whole = [curve for curve in curves if curve and len(curve) == len(curves[0])]
        if whole:
            points = [(steps[0][0], statistics.mean(y for _, y in steps)) for steps in zip(*whole, strict=True)]
            series.append(Series(line.name, line.name if line.name in REFERENCES else "method", points))
    if not series:
        return ""
    last = max(x for one in series for x, _ in one.points)
    chart = charts.lines(series, Axis("fine-tuning step", 0, last), Axis("P_psi", 0, 1), "relearning curves")
    kinds = {one.kind: Series("the methods" if one.kind == "method" else one.name, one.kind, []) for one in series}
    note = "P_psi while each model is fine-tuned on a few forget images, the mean over seeds."
    return section("Relearning", f"<figure>{chart}</figure>{charts.legend([*kinds.values()])}", note)


def _by_setting(lines: Sequence[Line]) -> list[str]:
    """For each number of a method that is varied alone: what is left of the forgotten, and what is kept."""
    rows = [row for line in lines for row in line.whole]
    alone = [(row.method, key) for row in rows if len(row.varied) == 1 for key in row.varied]
    found = []
    for method, key in dict.fromkeys(alone):
        # the method as it is stands among its variations
        own = [row for row in rows if row.method == method and not set(row.varied) - {key}]
        series = [
            _points(own, key, "p_psi", "P_psi of the forgotten", "forget"),
            _points(own, key, "accuracy_remaining", "accuracy on the rest", "remain"),
        ]
        if all(len(one.points) > 1 for one in series):
            xs = [x for one in series for x, _ in one.points]
            chart = charts.lines(series, Axis.around(key, xs), Axis("", 0, 1), f"figures by {key}")
            found.append(section(f"{method}: {key}", f"<figure>{chart}</figure>{charts.legend(series)}"))
    return found


def _points(rows: Sequence[Row], key: str, metric: str, name: str, kind: str) -> Series:
    """The metric's mean over seeds by the values of a setting; those that are no numbers are left out."""
    values: dict[float, list[float]] = {}
    for row in rows:
        x, figure = row.settings.get(key), row.metrics.get(metric)
        if figure is None or figure.value is None or not isinstance(x, int | float) or isinstance(x, bool):
            continue
        values.setdefault(float(x), []).append(figure.value)
    return Series(name, kind, sorted((x, statistics.mean(ys)) for x, ys in values.items()))


def _pictures(config: CompareConfig, cases: Sequence[Case], lines: Sequence[Line]) -> str:
    """What each model draws, the first seed's."""
    slugs = {case.name: case.slug for case in reversed(cases)} | {name: name for name in REFERENCES}
    shown = []
    for line in lines:
        picture = Path(config.output) / "pictures" / f"{slugs[line.name]}.png"
        if line.whole and picture.exists():
            name = escape(line.name)
            image = f'<img alt="{escape(line.name, quote=True)}" src="{data_url(picture.read_bytes())}">'
            shown.append(f"<figure>{image}<figcaption>{name}</figcaption></figure>")
    if not shown:
        return ""
    more = f" {len(shown) - _MAX_PICTURES} more are in pictures/." if len(shown) > _MAX_PICTURES else ""
    note = f"The same noise for every model; a row for each class, the forgotten first.{more}"
    return section("What the models make", f'<div class="sheets">{"".join(shown[:_MAX_PICTURES])}</div>', note)
