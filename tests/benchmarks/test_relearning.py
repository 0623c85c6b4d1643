"""What benchmarks/relearning.py and compare_text.toml ask for, and how the first one judges a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmark_modules import BENCHMARKS, load
from erasediff.launch import text_demo
from erasediff.launch.options import read_settings
from erasediff.shards.requests.split import FORGET_NAME, REMAIN_NAME
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.comparing.cases import cases_of
from erasediff.trainer.comparing.derived import RELEARNING_AREA
from erasediff.trainer.comparing.rows import Row, write_row
from erasediff.trainer.config import CompareConfig
from erasediff.trainer.config.methods import method_kind
from erasediff.trainer.evidence.metrics import Measurement
from erasediff.trainer.methods.meta_erasediff import MetaEraseDiffConfig

for needed in ("rows", "compared", "compare_digits_table", "compare_digits"):
    load(needed)
RELEARNING = load("relearning")


def row(p_psi: float, area: float, distance: float, worst: float) -> Row:
    metrics = {"p_psi": p_psi, RELEARNING.FRECHET: distance, "accuracy_worst_class": worst}
    return Row(
        *("x", 0, "", "", {}, ""),
        metrics={name: Measurement(value, 500) for name, value in metrics.items()},
        derived={RELEARNING_AREA: Measurement(area, 500)},
    )


UNSCRUBBED, RETRAINED = row(0.99, 1.0, 10.0, 0.97), row(0.04, 0.6, 20.0, 0.95)


@pytest.mark.parametrize(
    ("figures", "met"),
    [
        ((0.08, 0.64, 21.9, 0.965), (True, True, True, True)),
        ((0.00, 0.10, 5.0, 1.0), (True, True, True, True)),
        ((0.10, 0.64, 21.9, 0.965), (False, True, True, True)),
        ((0.08, 0.66, 21.9, 0.965), (True, False, True, True)),
        ((0.08, 0.64, 22.1, 0.965), (True, True, False, True)),
        ((0.08, 0.64, 21.9, 0.955), (True, True, True, False)),
    ],
)
def test_what_is_wanted_of_a_row(figures: tuple[float, float, float, float], met: tuple[bool, ...]) -> None:
    assert RELEARNING.met(row(*figures), UNSCRUBBED, RETRAINED) == met


def test_the_goals_of_a_digit_are_of_the_rows_of_its_settings(tmp_path: Path) -> None:
    options = RELEARNING.Options(output=tmp_path, digits=(3, 8), rates=(3e-5, 4e-5))
    config = RELEARNING.config_of(options, 8)
    rows = Path(config.output) / "rows"
    write_row(UNSCRUBBED, rows / "unscrubbed.json")
    assert RELEARNING.goals(options).count("\n") == 1, "nothing to hold them to"
    write_row(RETRAINED, rows / "retrained.json")
    held = [row(0.02, 0.5, 20.0, 0.97), row(0.06, 0.7, 21.0, 0.97), row(0.01, 0.2, 30.0, 0.97)]
    for case in cases_of(config):
        if case.name != "meta_erasediff, r = 3e-05":
            continue
        # the third of the other rate, as an earlier run may have left it
        settings = case.settings | ({"method.relearning_rate": 4e-5} if case.seed == 2 else {})
        write_row(replace(held[case.seed], settings=settings), rows / f"{case.slug}.json")
    (line,) = RELEARNING.goals(options).splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells[:3] == ["8", "meta_erasediff, r = 3e-05", "2"]
    assert cells[3:5] == ["0.040 ± 0.028 (0.040)", "0.600 ± 0.141 (0.600)"]
    assert cells[5:7] == ["20.5 ± 0.7 (20.0)", "0.970 ± 0.000 (0.970)"]
    assert cells[7:] == ["500", "2, 1, 2, 2 of 2"]


def test_a_row_is_of_its_digit_and_judged_by_many_samples() -> None:
    config = RELEARNING.config_of(RELEARNING.Options(rates=(3e-5, 4e-5)), 8)
    assert config.output.endswith("relearning-8") and "split-8" in config.forget and "split-8" in config.remain
    *simulated, control = [case.config for case in cases_of(config) if case.seed == 0]
    assert [case.method.relearning_rate for case in simulated] == [3e-5, 4e-5]  # pyright: ignore[reportAttributeAccessIssue]
    assert control.method == EraseDiffConfig(anchor=10) and control.train == simulated[0].train
    assert control.optimizer == simulated[0].optimizer
    assert config.judge.num_forget_samples_per_class == config.judge.num_remain_samples_per_class == 500
    assert config.judge.relearn and config.judge.with_retrained and config.seeds == (0, 1, 2)


def test_the_comparison_for_a_word_names_methods_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(BENCHMARKS).parent)
    config = read_settings(CompareConfig, ["benchmarks/compare_text.toml"], prog="compare")
    kinds = [method_kind(own["method"]["name"]) for own in config.methods.values()]
    assert len(kinds) == 13 and config.judge.retrained is not None and config.judge.attacks == ("inversion", "prompt")


def test_a_word_is_made_hard_to_relearn_with_the_methods_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(BENCHMARKS).parent)
    config = read_settings(CompareConfig, ["benchmarks/relearning_text.toml"], prog="compare")
    assert config.seeds == (0, 1, 2) and config.judge.relearn and config.judge.retrained is not None
    words: dict[str, Any] = {"concept": ("three",), "anchor": "four"}
    assert {case.name: case.config.method for case in cases_of(config)} == {
        "meta_erasediff": MetaEraseDiffConfig(**words),
        "meta_erasediff, eta = 0.2": MetaEraseDiffConfig(**words, eta=0.2),
        "meta_erasediff, eta = 0.5": MetaEraseDiffConfig(**words, eta=0.5),
        "meta_erasediff, eta = 0.1, 400 steps": MetaEraseDiffConfig(**words, eta=0.1),
        "erasediff": EraseDiffConfig(**words),
    }
    for case in cases_of(config):
        assert (case.config.train.layers, case.config.optimizer.learning_rate) == (("xattn",), 5e-4)
        assert case.config.train.max_train_steps == (400 if "400" in case.name else 200)


def test_a_word_is_forgotten_by_the_sets_that_the_text_demo_erased_it_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(BENCHMARKS).parent)
    text = load("text")
    options = text.Options(output=Path("x"))
    compared = [
        read_settings(CompareConfig, [f"benchmarks/{name}.toml"], prog="compare")
        for name in ("compare_text", "relearning_text")
    ]
    for demo, asked in (
        *((Path("demo-text"), config) for config in compared),
        (Path("x") / "demo", next(text.cases(options)).config(options)),
    ):
        erasure = text_demo._erasure(demo, demo / "base" / "model", demo / "data", demo / "other", "three")
        sets = Path(erasure.output) / "split"
        assert (asked.model.path, asked.forget, asked.remain) == (
            erasure.model.path,
            str(sets / FORGET_NAME),
            str(sets / REMAIN_NAME),
        )
