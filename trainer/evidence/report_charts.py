"""The report's charts: the run's λ_t, cosines and conflict, the models' trade-off, the relearning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import charts
from .charts import Axis, Series
from .record import Record
from .report_page import section

_MAX_LAYERS = 40

_SHORT = {
    "_blocks.": " ",
    "mid_block.": "mid ",
    "resnets.": "res ",
    "attentions.": "attn ",
    "samplers.": "sample ",
    "time_emb_proj": "time",
    "_embedding": "",
    "conv_shortcut": "shortcut",
}


def all_charts(record: Record, steps: Sequence[Mapping[str, Any]]) -> str:
    """Side by side those that there is something for. `steps` are the lines of metrics.jsonl."""
    figures = (_lambda(steps, record), _cosines(steps), _conflict(steps), _trade_off(record), _curves(record))
    shown = [figure for figure in figures if figure]
    return f'<div class="pair">{"".join(shown)}</div>' if shown else ""


def _steps_axis(steps: Sequence[Mapping[str, Any]]) -> Axis:
    return Axis("step", 0, max(float(steps[-1]["step"]), 1))


def _line(steps: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    # a value that is not finite is a name there
    return [(line["step"], line[key]) for line in steps if isinstance(line.get(key), int | float)]


def _lambda(steps: Sequence[Mapping[str, Any]], record: Record) -> str:
    points = _line(steps, "lambda_t")
    if not points:
        return ""
    series = Series("λ_t", "scrubbed", points)
    chart = charts.lines([series], _steps_axis(steps), Axis.around("λ_t", [y for _, y in points], low=0), "λ_t by step")
    run = record.run
    note = f"Theorem 3.1's multiplier. {run.capped_steps} of {run.num_steps} steps capped, {run.skipped_steps} skipped."
    return section("λ_t over steps", f"<figure>{chart}</figure>", note)


def _cosines(steps: Sequence[Mapping[str, Any]]) -> str:
    series = [
        Series("update with the forget gradient", "forget", _line(steps, "cos_delta_g")),
        Series("update with the remain gradient", "remain", _line(steps, "cos_delta_r")),
    ]
    if not all(one.points for one in series):
        return ""
    chart = charts.lines(series, _steps_axis(steps), Axis("cosine", -1, 1), "cosines of the update by step")
    body = f"<figure>{chart}</figure>{charts.legend(series)}"
    return section(
        "Cosines of the update", body, "Of δ with ∇g and with ∇L_r: above zero, the update serves that side."
    )


def _conflict(steps: Sequence[Mapping[str, Any]]) -> str:
    watched = [line for line in steps if line.get("conflict")]
    if not watched:
        return ""
    layers = list(watched[0]["conflict"])
    depth = max(name.count(".") for name in layers) + 1
    while len({_up_to(name, depth) for name in layers}) > _MAX_LAYERS and depth > 1:
        depth -= 1
    rows: dict[str, list[float | None]] = {}
    for group in dict.fromkeys(_up_to(name, depth) for name in layers):
        members = [name for name in layers if _up_to(name, depth) == group]
        rows[_short(group)] = [_mean([line["conflict"][name] for name in members]) for line in watched]
    series = [Series("against each other", "forget", []), Series("along", "remain", [])]
    chart = charts.heatmap(rows, [line["step"] for line in watched], "cosine of the gradients by layer and step")
    note = "Cosine of the forget and the remain gradient in each layer."
    return section("Conflict by layer", f"<figure>{chart}</figure>{charts.legend(series)}", note)


def _up_to(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _short(layer: str) -> str:
    for long, short in _SHORT.items():
        layer = layer.replace(long, short)
    return layer.replace(".", " · ")


def _trade_off(record: Record) -> str:
    """The models as dots: how much is left of the forgotten against how far the rest is from real."""
    quality = next((name for name in record.models["scrubbed"].metrics if name.startswith("frechet_distance")), "")
    marks = []
    for name, entry in record.models.items():
        x, y = entry.metrics.get("p_psi"), entry.metrics.get(quality)
        if x is not None and y is not None and x.value is not None and y.value is not None:
            marks.append(Series(name, name, [(x.value, y.value)]))
    if len(marks) < 2:
        return ""
    heights = [mark.points[0][1] for mark in marks]
    across = Axis("P_psi of the forgotten", 0, 1)
    chart = charts.dots(marks, across, Axis(quality, 0, 1.25 * max(heights) or 1.0), "forgetting against quality")
    note = "Up: the Fréchet distance of the rest to real images. The corner at the left below is best."
    return section("Forgetting against quality", f"<figure>{chart}</figure>", note)


def _curves(record: Record) -> str:
    series = []
    for name, entry in record.models.items():
        points = [(float(point.step), point.p_psi) for point in entry.relearning if point.p_psi is not None]
        if points:
            series.append(Series(name, name, points))
    if not series:
        return ""
    last = max(x for one in series for x, _ in one.points)
    chart = charts.lines(series, Axis("fine-tuning step", 0, last), Axis("P_psi", 0, 1), "relearning curves")
    count = record.judge["relearning"]["num_images"]
    sizes = sorted({point.n for entry in record.models.values() for point in entry.relearning})
    n = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    note = (
        f"P_psi (n = {n}) while the model is fine-tuned on at most {count:,} forget images. "
        "What was only hidden comes back at once."
    )
    return section("Relearning", f"<figure>{chart}</figure>{charts.legend(series)}", note)
