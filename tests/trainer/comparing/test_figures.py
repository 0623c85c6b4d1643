"""What a comparison computes itself: areas, ERR, means and spreads, the Pareto front, what is missing."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from erasediff.trainer.comparing.cases import cases_of
from erasediff.trainer.comparing.derived import err, relearning_area
from erasediff.trainer.comparing.page import pareto_front
from erasediff.trainer.comparing.rows import Row, Training
from erasediff.trainer.comparing.table import as_csv, gaps, lines_of, markdown, write_tables
from erasediff.trainer.config import CompareConfig, ModelConfig
from erasediff.trainer.evidence.metrics import Measurement
from erasediff.trainer.evidence.relearning import RelearningPoint
from table_cases import table_of


def curve(*heights: float | None, steps: tuple[int, ...] = (0, 10, 30, 40)) -> list[RelearningPoint]:
    return [RelearningPoint(step, height, 100) for step, height in zip(steps, heights, strict=True)]


def test_the_area_is_the_curves_mean_height() -> None:
    heights = [0.01, 0.3, 0.65, 0.83]
    expected = np.trapezoid(heights, [0, 10, 30, 40]) / 40
    assert relearning_area(curve(*heights)) == pytest.approx(expected, abs=1e-12)
    assert relearning_area(curve(0.5, 0.5, 0.5, 0.5)) == pytest.approx(0.5)
    assert relearning_area(curve(0.01, None, 0.65, 0.83)) is None
    assert relearning_area([]) is None


def figures(p_psi: float, accuracy: float) -> dict[str, Measurement]:
    return {"p_psi": Measurement(p_psi, 50), "accuracy_remaining": Measurement(accuracy, 90)}


def test_err_is_the_harmonic_mean_and_neither_the_destroyed_nor_the_untouched_win() -> None:
    before = figures(0.97, 0.9)
    found = err(figures(0.1, 0.8), before, 0.4)
    assert found == pytest.approx(statistics.harmonic_mean([0.9, 0.8 / 0.9, 0.6]))
    # better than before on the rest is no merit
    assert err(figures(0.1, 0.95), before, 0.4) == pytest.approx(statistics.harmonic_mean([0.9, 1.0, 0.6]))
    destroyed, untouched = err(figures(0.0, 0.1), before, 0.0), err(before, before, 0.97)
    assert destroyed is not None and untouched is not None and found is not None
    assert found > 0.7 and destroyed < 0.3 and untouched < 0.1
    assert err(figures(1.0, 0.9), before, 0.4) == 0.0
    assert err(figures(0.1, 0.8), before, None) is None


def test_the_front_is_of_those_that_nothing_beats() -> None:
    across, up = np.random.default_rng(0).integers(0, 12, (2, 60)).tolist()
    # more of one is often less of the other
    points = [(x, 14 - x + y // 2) for x, y in zip(across, up, strict=True)]
    expected = {(x, y) for x, y in points if not any((a, b) != (x, y) and a <= x and b <= y for a, b in points)}
    front = pareto_front(points)
    assert set(front) == expected and front == sorted(front) and len(front) > 2


def config(**changes: Any) -> CompareConfig:
    chosen: dict[str, Any] = {"seeds": (0, 1, 2), "methods": {"ours": {}, "moo": {"method": {"name": "moo"}}}}
    return CompareConfig("out", ModelConfig("base"), "data", "f", "r", **chosen | changes)


def row(name: str, seed: int | None, p_psi: float | None, **about: Any) -> Row:
    metrics = {} if p_psi is None else {"p_psi": Measurement(p_psi, 50, low=p_psi - 0.01, high=p_psi + 0.02)}
    settings = next((case.settings for case in cases_of(config()) if (case.name, case.seed) == (name, seed)), {})
    about = {"metrics": metrics, "settings": settings} | about
    return Row(name, seed, "2026-11-22T10:00:00", "cpu", {"torch": "2.13.0"}, "hash", **about)


def training(seconds: float, capped: int = 0) -> Training:
    return Training(10, 25, 5, 10, seconds, 0.5, 2_000_000, 1, capped, 0)


@pytest.fixture
def rows() -> dict[str, Row]:
    return {
        "unscrubbed": row("unscrubbed", None, 0.97),
        "ours.0": row("ours", 0, 0.1, training=training(4.0, capped=1), verdict="shown"),
        "ours.1": row("ours", 1, 0.3, training=training(8.0, capped=4), verdict="failed"),
        "moo.0": row("moo", 0, None, failed="step 3: the remain loss L_r is NaN"),
    }


def test_the_table_has_mean_and_spread_and_says_what_is_missing(rows: dict[str, Row]) -> None:
    made = config()
    lines = lines_of(made, cases_of(made), rows)
    found = table_of(markdown(made, lines))
    assert [*found] == ["unscrubbed", "retrained", "ours", "moo"]
    ours = found["ours"]
    assert ours["P_psi ↓"] == f"0.200 ± {statistics.stdev([0.1, 0.3]):.3f}" and ours["seeds"] == "2"
    assert (ours["s"], ours["gradients"], ours["before"], ours["peak MB"]) == ("6.0 ± 2.8", "25 ± 0", "5 ± 0", "2 ± 0")
    assert ours["capped %"] == "25 ± 21"  # 10 % and 40 %
    assert ours["verdict"] == "1 shown, 1 failed"
    assert found["unscrubbed"]["P_psi ↓"] == "0.970" and found["retrained"]["P_psi ↓"] == "–"
    assert found["moo"]["P_psi ↓"] == "–" and found["moo"]["verdict"] == "1 ended early"
    told = gaps(lines)
    assert told[0].startswith("Incomplete: there is no retrained model")
    assert "ours: 2 of 3 seeds were run." in told and "moo: 1 of 3 seeds were run." in told
    assert "moo, seed 0, ended early: step 3: the remain loss L_r is NaN" in told
    assert all(gap in markdown(made, lines) for gap in told)


def test_what_another_judge_measured_is_left_out_and_said(rows: dict[str, Row], tmp_path: Path) -> None:
    made = dataclasses.replace(config(seeds=(0, 1), methods={"ours": {}}), output=str(tmp_path))
    rows["ours.1"] = dataclasses.replace(rows["ours.1"], measured_by="another")
    rows["retrained"] = dataclasses.replace(row("retrained", None, 0.01), measured_by="another")
    lines = lines_of(made, cases_of(made), rows)
    found = table_of(markdown(made, lines))
    assert (found["ours"]["P_psi ↓"], found["ours"]["seeds"], found["retrained"]["P_psi ↓"]) == ("0.100", "1", "–")
    told = gaps(lines)
    assert "ours: 1 measured by another judge left out; run the comparison again." in told
    assert any(line.startswith("Incomplete: there is no retrained model") for line in told)
    write_tables(made, cases_of(made), rows)
    with (tmp_path / "comparison.csv").open() as file:
        assert [(one["name"], one["seed"]) for one in csv.DictReader(file)] == [("unscrubbed", ""), ("ours", "0")]


def test_a_whole_table_has_no_gaps(rows: dict[str, Row]) -> None:
    made = config(seeds=(0,), methods={"ours": {}})
    whole = {"retrained": row("retrained", None, 0.01)} | {name: rows[name] for name in ("unscrubbed", "ours.0")}
    lines = lines_of(made, cases_of(made), whole)
    assert gaps(lines) == [] and lines[2].verdicts == "shown"


def test_the_csv_has_every_figure_of_every_run(rows: dict[str, Row]) -> None:
    found = list(csv.DictReader(io.StringIO(as_csv([*rows.values()]))))
    assert [(one["name"], one["seed"], one["p_psi"]) for one in found] == [
        ("unscrubbed", "", "0.97"),
        ("ours", "0", "0.1"),
        ("ours", "1", "0.3"),
        ("moo", "0", ""),
    ]
    assert float(found[1]["p_psi high"]) == pytest.approx(0.12) and found[1]["p_psi n"] == "50"
    assert found[2]["seconds"] == "8.0" and found[3]["failed"].startswith("step 3")
