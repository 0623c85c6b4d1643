"""Charts as inline SVG, for the report: no script, colours from the page's CSS, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 36


@dataclass(frozen=True)
class Series:
    """Points of one line or one mark; `kind` is the CSS class that colours it."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """A range of values, and how to name it."""

    label: str
    low: float
    high: float

    @classmethod
    def around(cls, label: str, values: Sequence[float], *, low: float | None = None) -> Axis:
        """From `low`, or a little below the smallest value, to a little above the largest."""
        smallest, largest = min(values), max(values)
        margin = 0.06 * (largest - smallest) or 0.1 * abs(largest) or 1.0
        return cls(label, smallest - margin if low is None else low, largest + margin)

    def ticks(self) -> list[float]:
        """Round numbers in the range, about four of them."""
        raw = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


class _Frame:
    """Maps values to places and draws the axes."""

    def __init__(self, x: Axis, y: Axis):
        self.x, self.y = x, y

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x.low) / (self.x.high - self.x.low)
        up = (y - self.y.low) / (self.y.high - self.y.low)
        return (
            round(_LEFT + across * (WIDTH - _LEFT - _RIGHT), 1),
            round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 1),
        )

    def axes(self) -> list[str]:
        parts = []
        for value in self.y.ticks():
            _, y = self.place(self.x.low, value)
            zero = " zero" if value == 0 else ""
            parts.append(f'<line class="grid{zero}" x1="{_LEFT}" y1="{y}" x2="{WIDTH - _RIGHT}" y2="{y}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5}" text-anchor="end">{value:g}</text>')
        for value in self.x.ticks():
            x, _ = self.place(value, self.y.low)
            parts.append(
                f'<text class="tick" x="{x}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">{value:g}</text>'
            )
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(
            f'<text class="axis" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(self.x.label)}</text>'
        )
        return parts


def _svg(parts: Sequence[str], title: str, height: float = HEIGHT) -> str:
    name = escape(title, quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{name}"><title>{name}</title>'
        + "".join(parts)
        + "</svg>"
    )


def lines(series: Sequence[Series], x: Axis, y: Axis, title: str) -> str:
    """Lines over a common x; a single point becomes a dot."""
    frame = _Frame(x, y)
    parts = frame.axes()
    for one in series:
        places = [frame.place(*point) for point in one.points]
        if len(places) == 1:
            parts.append(f'<circle class="{one.kind}" cx="{places[0][0]}" cy="{places[0][1]}" r="3.5"/>')
        else:
            path = " ".join(f"{px},{py}" for px, py in places)
            parts.append(f'<polyline class="line {one.kind}" points="{path}"/>')
    return _svg(parts, title)


def dots(series: Sequence[Series], x: Axis, y: Axis, title: str, front: Sequence[tuple[float, float]] = ()) -> str:
    """Named dots: one point a series. front: a line through some of them."""
    frame = _Frame(x, y)
    parts = frame.axes()
    if len(front) > 1:
        path = " ".join(f"{px},{py}" for px, py in (frame.place(*point) for point in front))
        parts.append(f'<polyline class="line front" points="{path}"/>')
    labels: list[tuple[float, float]] = []
    for one in series:
        px, py = frame.place(*one.points[0])
        to_the_left = px > WIDTH * 0.7
        label_x, anchor = (px - 10, "end") if to_the_left else (px + 10, "start")
        parts.append(f'<circle class="{one.kind}" cx="{px}" cy="{py}" r="6"/>')
        label_y = py + 4
        while any(abs(label_x - x) < 100 and abs(label_y - y) < 13 for x, y in labels):
            label_y += 13
        labels.append((label_x, label_y))
        parts.append(f'<text class="mark" x="{label_x}" y="{label_y}" text-anchor="{anchor}">{escape(one.name)}</text>')
    return _svg(parts, title)


def heatmap(rows: Mapping[str, Sequence[float | None]], columns: Sequence[float], title: str) -> str:
    """A row for each name, a cell for each column; values in [-1, 1], negative and positive in two colours."""
    label_width, cell_height = 168, 13
    cell_width = (WIDTH - label_width - 2) / max(len(columns), 1)
    parts = []
    for i, (name, values) in enumerate(rows.items()):
        y = i * cell_height
        parts.append(f'<text class="tick" x="{label_width - 6}" y="{y + 9.5}" text-anchor="end">{escape(name)}</text>')
        for j, value in enumerate(values):
            x = label_width + j * cell_width
            place = f'x="{x:.1f}" y="{y}" width="{cell_width + 0.3:.1f}" height="{cell_height - 1}"'
            if value is None:
                parts.append(f'<rect class="void" {place}/>')
                continue
            kind = "against" if value < 0 else "along"
            parts.append(
                f'<rect class="void" {place}/><rect class="{kind}" {place} fill-opacity="{min(abs(value), 1):.2f}">'
                f"<title>{escape(name)}, step {columns[j]:g}: {value:+.2f}</title></rect>"
            )
    bottom = len(rows) * cell_height
    for j in sorted({0, len(columns) // 2, len(columns) - 1}):
        x = label_width + (j + 0.5) * cell_width
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 12}" text-anchor="middle">{columns[j]:g}</text>')
    middle = (label_width + WIDTH) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{bottom + 27}" text-anchor="middle">step</text>')
    return _svg(parts, title, bottom + 32)


def legend(series: Sequence[Series]) -> str:
    items = "".join(f'<span><i class="{one.kind}"></i>{escape(one.name)}</span>' for one in series)
    return f'<p class="legend">{items}</p>'
