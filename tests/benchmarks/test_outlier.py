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


def test_the_search_takes_what_is_nearest_to_the_retrained_model(outlier: Any) -> None:
    settings = [{"method": {"name": "siss", "forget_norm": norm}, "optimizer": {}} for norm in (0.1, 0.2, 0.3, 0.4)]
    kept = {"num_samples": 2000}
    rows = {
        "retrained": {"bound": 16.0, "frechet_distance": 10.0},
        # as the retrained model, but for one cross
        "siss #0": kept | {"num_crosses": 1, "bound": 16.0, "frechet_distance": 10.0},
        # twice its bound, half of its distance: four times off
        "siss #1": kept | {"num_crosses": 0, "bound": 32.0, "frechet_distance": 5.0},
        "siss #2": kept | {"num_crosses": 0, "bound": 12.0, "frechet_distance": 15.0},
        "siss #3": {"failed": "step 3: the remain loss L_r is NaN"},
    }
    found = outlier.best_settings({"siss": settings}, rows, "Seed 100.")
    assert found["methods"] == {"siss": settings[2]}
    factors = [found["search"][f"siss #{i}"]["factor"] for i in range(4)]
    assert factors == [1, pytest.approx(4), pytest.approx(16 / 12 * 1.5), None]
    lines = outlier.search_table(found).splitlines()
    assert "| siss | **forget_norm 0.3** | 0 of 2,000 | 12.0 | 15.0 | 2.00 |" in lines
    assert "| siss | forget_norm 0.1 | 1 of 2,000 | 16.0 | 10.0 | 1.00 |" in lines
    assert any("ended early: step 3" in line for line in lines)


def test_the_table_says_what_was_measured_and_what_was_not(
    outlier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = outlier.Options(output=tmp_path, methods=("siss", "finetune"))
    monkeypatch.setattr(outlier, "CHOSEN", tmp_path / "outlier.json")
    with pytest.raises(SystemExit, match="--search finds each method's settings first"):
        outlier.page(asked)
    search = dataclasses.replace(asked, search=True)
    known = {"num_samples": 1000, "bound": 5.0, "frechet_distance": 20.0, "features": "pictures-cnn"}
    for slug in ["retrained", *(f"{name}-{i}.100" for name in asked.methods for i in range(4))]:
        with pytest.raises(SystemExit, match="all are needed"):
            outlier.search_rows(search)
        put(outlier, search, slug, **known, num_crosses=int(slug != "siss-1.100"))
    candidates = {name: outlier.CANDIDATES[name] for name in asked.methods}
    found = outlier.best_settings(candidates, outlier.search_rows(search), "Seed 100.")
    outlier.CHOSEN.write_text(json.dumps(found))

    options = dataclasses.replace(asked, seeds=(0, 1))
    put(outlier, options, "unscrubbed", **known, num_crosses=8, radius=3.75)
    put(outlier, options, "siss.0", **known | {"bound": 6.0}, num_crosses=0, seconds=1.0)
    put(outlier, options, "siss.1", **known | {"bound": 8.0}, num_crosses=2, seconds=2.0)
    put(outlier, options, "finetune.0", failed="step 3: the remain loss L_r is NaN")
    chosen = outlier.compare_config(options)
    assert (chosen.methods, chosen.seeds) == (
        {"siss": candidates["siss"][1], "finetune": found["methods"]["finetune"]},
        (0, 1),
    )
    lines = outlier.page(options).splitlines()
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
