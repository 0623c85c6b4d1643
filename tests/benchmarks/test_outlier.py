"""The table of the outlier's benchmark, of rows that are there, that failed and that are missing."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from erasediff.shards.sources.digits import read_digits

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def outlier() -> Any:
    """Its folder stands on sys.path only while it is read: its `kernels` would stand before Hugging Face's."""
    spec = importlib.util.spec_from_file_location("outlier", BENCHMARKS / "outlier.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["outlier"] = module
    sys.path.append(str(BENCHMARKS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def put(outlier: Any, options: Any, slug: str, **figures: Any) -> None:
    outlier._put(options, slug, figures)


def test_the_table_says_what_was_measured_and_what_was_not(outlier: Any, tmp_path: Path) -> None:
    options = outlier.Options(output=tmp_path, seeds=(0, 1), methods=("siss", "finetune"))
    known = {"num_samples": 1000, "bound": 5.0, "frechet_distance": 20.0, "features": "pictures-cnn"}
    put(outlier, options, "unscrubbed", **known, num_crosses=8, radius=3.75)
    put(outlier, options, "siss.0", **known | {"bound": 6.0}, num_crosses=0, seconds=1.0)
    put(outlier, options, "siss.1", **known | {"bound": 8.0}, num_crosses=2, seconds=2.0)
    put(outlier, options, "finetune.0", failed="step 3: the remain loss L_r is NaN")
    lines = outlier.table(options).splitlines()
    # Wilson's interval of 2 in 1,000 ends at .726 %
    assert "| unscrubbed | 1 | 0.80 | 1.57 | 5.000 | 20.00 | – |" in lines
    assert "| siss | 2 | 0.10 ± 0.14 | 0.73 | 7.000 ± 1.414 | 20.00 ± 0.00 | 1.5 ± 0.7 |" in lines
    assert "| finetune | 0 | – | – | – | – | – |" in lines
    assert "- retrained: 0 of 1 rows" in lines and "- finetune: 1 of 2 rows" in lines
    assert "- finetune ended early: step 3: the remain loss L_r is NaN" in lines
    assert any("those within 3.75 of the cross count" in line for line in lines)


def test_rows_of_other_options_are_not_mixed(outlier: Any, tmp_path: Path) -> None:
    options = outlier.Options(output=tmp_path / "rows")
    outlier._hold_to(options)
    outlier._hold_to(dataclasses.replace(options, seeds=(3,)))
    assert json.loads((tmp_path / "rows" / "options.json").read_text())["gradients"] == 200
    with pytest.raises(SystemExit, match="was begun with gradients 200, not 100: choose another --output"):
        outlier._hold_to(dataclasses.replace(options, gradients=100))


def test_the_cross_is_none_of_the_digits(outlier: Any) -> None:
    cross = outlier.cross()
    assert cross.shape == (8, 8) and (cross == 255).sum() == 16 and (cross == cross.T).all()
    pixels, _ = read_digits()
    apart = np.linalg.norm((pixels.astype(float) - cross).reshape(len(pixels), -1), axis=1) / 127.5
    assert apart.min() > 7
