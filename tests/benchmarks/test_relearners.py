"""What benchmarks/relearners.py asks for, and how it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmark_modules import load

for needed in ("rows", "compared", "compare_digits_table", "compare_digits", "relearning"):
    load(needed)
RELEARNERS = load("relearners")


@pytest.fixture
def options(tmp_path: Path) -> Any:
    return RELEARNERS.Options(digits=(8,), seeds=(0, 1), rates=(4e-5,), output=tmp_path)


def put(options: Any, slug: str, name: str, area: float, *, first: float = 0.5) -> None:
    found = {"curve": [[0, first], [40, 0.9]], "area": area, "n": 100}
    RELEARNERS._put(RELEARNERS.config_of(options, 8), slug, name, found)


def test_each_model_is_its_own(options: Any) -> None:
    config = RELEARNERS.config_of(options, 8)
    digit = options.output / "relearning-8"
    assert RELEARNERS.models_of(config) == {
        "unscrubbed": str(options.output / "base" / "model"),
        "retrained": str(digit / "retrained" / "model"),
        "meta-erasediff-r-=-4e-05.0": str(digit / "runs" / "meta-erasediff-r-=-4e-05.0" / "model"),
        "meta-erasediff-r-=-4e-05.1": str(digit / "runs" / "meta-erasediff-r-=-4e-05.1" / "model"),
    }
    harmless = RELEARNERS.harmless_config(config, "retrained", "there")
    assert (harmless.model.path, harmless.method.name) == ("there", "finetune")
    assert harmless.remain == str(options.output / "split-8" / "remain")


def test_runs_are_counted_against_the_retrained_model_under_the_same_relearner(options: Any) -> None:
    *_, one, other = RELEARNERS.models_of(RELEARNERS.config_of(options, 8))
    for slug, area in (("unscrubbed", 0.99), ("retrained", 0.5), (one, 0.54), (other, 0.56)):
        put(options, slug, RELEARNERS.MEASURED, area)
        put(options, slug, "8 pictures", area - 0.3)
    assert RELEARNERS.table(options).splitlines()[2:] == [
        "| 8 | AdamW, 1e-4, 32 pictures | area | 0.990 | 0.500 | 0.550 ± 0.014 | 1 of 2 |",
        "| 8 | 8 pictures | area | 0.690 | 0.200 | 0.250 ± 0.014 | 1 of 2 |",
    ]


def test_what_harmless_training_brings_back_is_the_curves_first_point(options: Any) -> None:
    *_, one, other = RELEARNERS.models_of(RELEARNERS.config_of(options, 8))
    for slug, first in (("unscrubbed", 0.9), ("retrained", 0.1), (one, 0.14), (other, 0.12)):
        put(options, slug, RELEARNERS.HARMLESS, 0.7, first=first)
    assert RELEARNERS.table(options).splitlines()[2:] == [
        "| 8 | after harmless training | P_psi | 0.900 | 0.100 | 0.130 ± 0.014 | 2 of 2 |",
        "| 8 | after harmless training | area | 0.700 | 0.700 | 0.700 ± 0.000 | 2 of 2 |",
    ]


def test_what_is_missing_is_no_row(options: Any) -> None:
    put(options, "unscrubbed", RELEARNERS.MEASURED, 1.0)
    put(options, "retrained", RELEARNERS.MEASURED, 0.5)
    assert len(RELEARNERS.table(options).splitlines()) == 2
