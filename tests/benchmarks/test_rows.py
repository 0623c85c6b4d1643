"""What a benchmark writes below a page's words."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def rows() -> Any:
    spec = importlib.util.spec_from_file_location("rows", BENCHMARKS / "rows.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_new_tables_stand_in_place_of_the_old_ones_and_words_above_stay(rows: Any, tmp_path: Path) -> None:
    page = tmp_path / "results" / "digits.md"
    rows.write_tables(page, "/somewhere/benchmarks/digits.py", "\n## Old\n\n| 1 |")
    page.write_text("# Digits\n\nWhat is written by hand.\n\n" + page.read_text())
    rows.write_tables(page, "digits.py", "## New\n\n| 2 |\n")
    marker = "<!-- below: written by benchmarks/digits.py -->"
    assert page.read_text() == f"# Digits\n\nWhat is written by hand.\n\n{marker}\n\n## New\n\n| 2 |\n"
