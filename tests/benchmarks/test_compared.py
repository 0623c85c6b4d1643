"""The same small search for every method, and what is chosen by it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_modules import BENCHMARKS, load
from erasediff.trainer.comparing.cases import cases_of, slug_of
from erasediff.trainer.comparing.derived import ERR, RELEARNING_AREA
from erasediff.trainer.comparing.rows import Row, write_row
from erasediff.trainer.config import CompareConfig, ModelConfig
from erasediff.trainer.evidence.metrics import Measurement
from table_cases import table_of

load("rows")
COMPARED = load("compared")
load("compare_digits_table")
PAGES = {name: load(name) for name in ("compare_digits", "compare_text")}
FRECHET = "frechet_distance[some-cnn]"


def row(name: str, err: float, distance: float, colours: float) -> Row:
    figures = {FRECHET: distance, "colours": colours}
    metrics = {metric: Measurement(value, 500) for metric, value in figures.items()}
    return Row(*(name, 0, "", "", {}, ""), metrics=metrics, derived={ERR: Measurement(err, 500)})


UNSCRUBBED = row("unscrubbed", 0.01, 10.0, 0.9)


def test_a_score_is_the_harmonic_mean_of_what_err_sees_and_what_it_does_not() -> None:
    # of ERR's parts .8 .8 .8, half of the pictures, and colours a third of what they were
    assert COMPARED.figures_of(row("x", 0.8, 20.0, 0.3), UNSCRUBBED, ["colours"]) == {
        "err": 0.8,
        "frechet_distance": 20.0,
        "colours": 0.3,
        "score": pytest.approx(5 / (3 / 0.8 + 2 + 3)),
    }
    # nothing counts for more than the unscrubbed model's
    assert COMPARED.figures_of(row("x", 0.8, 5.0, 1.0), UNSCRUBBED, ["colours"])["score"] == pytest.approx(
        5 / (3 / 0.8 + 2)
    )
    assert COMPARED.figures_of(row("x", 0.8, 20.0, 0.3), UNSCRUBBED)["score"] == pytest.approx(4 / (3 / 0.8 + 2))
    assert COMPARED.figures_of(row("x", 0.8, 20.0, 0.0), UNSCRUBBED, ["colours"])["score"] == 0
    assert COMPARED.figures_of(row("x", 0.0, 20.0, 0.3), UNSCRUBBED)["score"] == 0
    ended = dataclasses.replace(UNSCRUBBED, metrics={}, derived={}, failed="step 3: NaN")
    assert COMPARED.figures_of(ended, UNSCRUBBED, ["colours"])["score"] == 0


def comparison(output: Path, methods: dict[str, Any], seeds: tuple[int, ...]) -> CompareConfig:
    return CompareConfig(str(output), ModelConfig("x"), "x", "x", "x", methods=methods, seeds=seeds)


def test_the_best_of_each_method_is_chosen_by_its_score(tmp_path: Path) -> None:
    candidates = {
        "moo": COMPARED.grid((1e-4, 3e-4), {"name": "moo"}, weight=[0.3, 1.0]),
        "finetune": COMPARED.grid((1e-3,), {"name": "finetune"}),
    }
    assert [(own["method"]["weight"], own["optimizer"]["learning_rate"]) for own in candidates["moo"]] == [
        *((0.3, 1e-4), (1.0, 1e-4), (0.3, 3e-4), (1.0, 3e-4))
    ]
    config = comparison(tmp_path, COMPARED.numbered(candidates), (100,))
    path = tmp_path / "chosen.json"
    cases = {case.name: case for case in cases_of(config)}
    put = {
        # the highest ERR, with pictures that are worse; the same with colours lost; the best; a worse one
        "moo #0": row("moo #0", 0.9, 90.0, 0.9),
        "moo #1": row("moo #1", 0.9, 10.0, 0.1),
        "moo #2": row("moo #2", 0.8, 11.0, 0.9),
        "moo #3": row("moo #3", 0.7, 11.0, 0.9),
        "finetune #0": row("finetune #0", 0.1, 10.0, 0.9),
    }
    write_row(UNSCRUBBED, tmp_path / "rows" / "unscrubbed.json")
    for name, own in put.items():
        here, settings = tmp_path / "rows" / f"{cases[name].slug}.json", cases[name].settings
        # none, and one of other settings
        for stale in (None, dataclasses.replace(own, settings=settings | {"train.train_batch_size": 3})):
            if stale is not None:
                write_row(stale, here)
            with pytest.raises(SystemExit, match=f"rows of the search are missing, {name} for one"):
                COMPARED.choose(config, candidates, path, "Here", ["colours"])
        write_row(dataclasses.replace(own, settings=settings), here)
    COMPARED.choose(config, candidates, path, "Here", ["colours"])
    found = json.loads(path.read_text())
    assert found["methods"] == {"moo": candidates["moo"][2], "finetune": candidates["finetune"][0]}
    figures = COMPARED.figures_of(put["moo #1"], UNSCRUBBED, ["colours"])
    assert found["search"]["moo #1"] == candidates["moo"][1] | figures
    lines = COMPARED.search_table(found).splitlines()
    assert lines[2] == "| method | settings | ERR | Fréchet distance | colours | score |"
    assert lines[6].startswith("| moo | **weight 0.3, learning_rate 0.0003** | 0.800 | 11.0 | 0.900 | 0.8")


def test_all_digits_together_are_of_the_rows_that_the_tables_show(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(Path(BENCHMARKS).parent)
    digits = PAGES["compare_digits"]
    options = digits.Options(output=tmp_path, table=tmp_path / "page.md", digits=(3, 8), seeds=(0, 1))
    for digit in options.digits:
        config = digits.table_config(options, digit)
        made = [measured(case.name, 0.1, seed=case.seed, settings=case.settings) for case in cases_of(config)]
        # one of other settings; of the other digit a retrained model that another judge measured
        moo = next(row for row in made if (row.name, row.seed) == ("moo", 1))
        made[made.index(moo)] = measured("moo", 0.9, seed=1, settings=moo.settings | {"optimizer.learning_rate": 1.0})
        made += [measured("unscrubbed", 0.9), measured("retrained", 0.0, measured_by="another" if digit == 8 else "")]
        for row in made:
            name = row.name if row.seed is None else slug_of(row.name) + f".{row.seed}"
            write_row(row, Path(config.output) / "rows" / f"{name}.json")
    digits.write_table(options)
    together, three, eight = (options.table.read_text().split("\n## ")[part] for part in (1, 3, 4))
    found = table_of(together)
    assert (found["moo"]["runs"], found["moo"]["P_psi"], found["moo"]["highest P_psi"]) == ("1", "0.100", "0.100")
    assert (found["munba"]["runs"], found["retrained"]["runs"]) == ("2", "1")
    assert all("- moo: 1 of other settings left out" in page for page in (three, eight))
    assert "- retrained: 1 measured by another judge left out" in eight


def measured(name: str, p_psi: float, **about: Any) -> Row:
    figures = {"p_psi": p_psi, "accuracy_remaining": 0.9, "accuracy_worst_class": 0.8}
    figures["frechet_distance[digits-cnn]"] = 10.0
    base = row(name, 0.5, 10.0, 0.9)
    return dataclasses.replace(
        base,
        metrics={metric: Measurement(value, 500) for metric, value in figures.items()},
        derived=base.derived | {RELEARNING_AREA: Measurement(0.5, 500)},
        **({"seed": None} | about),
    )


def test_processes_share_out_the_rows_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    config = comparison(Path("x"), {name: {"method": {"name": "moo"}} for name in "abcde"}, (0, 1))
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(COMPARED, "run_compare", lambda config, only: ran.append(tuple(only)))
    for share in range(2):
        COMPARED.run_share([config, config], share, 2)
    assert ran == [tuple("ace")] * 2 + [tuple("bd")] * 2


@pytest.mark.parametrize("name", PAGES)
def test_every_method_has_four_settings_and_what_was_chosen_is_one_of_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(BENCHMARKS).parent)
    page = PAGES[name]
    assert {len(own) for own in page.CANDIDATES.values()} == {4}
    assert all(len({json.dumps(one) for one in own}) == 4 for own in page.CANDIDATES.values())
    found = json.loads(page.CHOSEN.read_text())
    assert list(found["methods"]) == list(page.CANDIDATES)
    for method, settings in found["methods"].items():
        scores = [found["search"][f"{method} #{i}"]["score"] for i in range(4)]
        assert settings == page.CANDIDATES[method][scores.index(max(scores))]
