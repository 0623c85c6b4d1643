"""A budget in seconds: what is timed, what it buys, and what comes before the first iteration."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from erasediff.launch.cli import main
from erasediff.trainer.comparing.budget import find_paces, known_paces
from erasediff.trainer.comparing.checks import describe
from erasediff.trainer.comparing.rows import preparing_seconds
from erasediff.trainer.comparing.run import run_compare, write_again
from erasediff.trainer.config import BudgetConfig, CompareConfig, EngineConfig
from erasediff.trainer.config.toml import dump_toml, read_toml
from erasediff.trainer.files import write_json
from erasediff.trainer.methods.salun import SalUnConfig
from erasediff.trainer.scrubbing import run_scrub
from evidence_cases import tiny_judge
from tiny import tiny_config


def rows_of(config: CompareConfig) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in (Path(config.output) / "rows").glob("*.json")}


def test_a_budget_in_seconds_is_held_by_each_methods_own_pace(
    digits: Path, base_model: Path, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {"ours": {}, "salun": {"method": {"name": "salun", "num_mask_batches": 2}}}
    config = dataclasses.replace(of_ours(digits, base_model, classifier, tmp_path), methods=methods)
    run_compare(config)
    paces = known_paces(config)
    (run,) = (tmp_path / "out" / "pace").glob("salun.*/")
    before = json.loads((run / "attempt-0001" / "attempt.json").read_text())
    assert paces["salun"].preparing == before["preparing_seconds"] > 0
    file = tmp_path / "comparison.toml"
    file.write_text(dump_toml(dataclasses.replace(config, output=str(tmp_path / "untimed"))))
    assert main(["compare", str(file), "--sweep", str(tmp_path / "sweep.toml")]) == 2
    assert not (tmp_path / "sweep.toml").exists()
    timed = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert len(timed) == 13 and paces["salun"].iteration == statistics.median(line["seconds"] for line in timed[3:])
    for name, row in rows_of(config).items():
        if row["training"] is not None:
            iteration, preparing = paces[row["name"]]
            steps = row["training"]["num_steps"]
            assert steps == int((1.5 - preparing) / iteration), name
            assert row["training"]["num_gradients"] == 2 * steps + 2 * (row["name"] == "salun")
    assert "Incomplete: there is no retrained model" in (tmp_path / "out" / "comparison.md").read_text()

    # seconds that are gone before the first step: a row that says so, and the others are run
    file = tmp_path / "out" / "pace" / "salun.json"
    kept = json.loads(file.read_text())
    write_json(file, kept | {"preparing": 1.6})
    assert "salun: budget.seconds = 1.5 leaves it no step" in describe(config)
    run_compare(config)
    found = rows_of(config)
    assert found["salun.0"]["failed"].startswith(
        "budget.seconds = 1.5 leaves it no step: it takes 1.6 before its first"
    )
    assert found["ours.0"]["failed"] is None
    sweep = tmp_path / "sweep.toml"
    (tmp_path / "comparison.toml").write_text(dump_toml(config))
    assert main(["compare", str(tmp_path / "comparison.toml"), "--sweep", str(sweep)]) == 0
    assert [*read_toml(sweep)["runs"]] == ["ours.0"], "what has no step is not submitted"
    # a table holds what was made with this budget, on however many ranks it was timed
    table = tmp_path / "out" / "comparison.md"
    monkeypatch.setenv("WORLD_SIZE", "4")
    write_again(config)
    assert "of other settings" not in table.read_text() and "salun, seed 0, ended early" in table.read_text()
    write_again(dataclasses.replace(config, budget=BudgetConfig(seconds=0.6)))
    for name in ("ours", "salun"):
        assert f"{name}: 1 of other settings left out" in table.read_text()
    monkeypatch.delenv("WORLD_SIZE")
    # paces that leave it one step, as the settings of a failed one have it, and then none again
    shutil.rmtree(tmp_path / "out" / "runs" / "salun.0", ignore_errors=True)
    for preparing, failed in ((0.1, None), (1.7, "budget.seconds = 1.5 leaves it no step: it takes 1.7 before")):
        write_json(file, kept | {"iteration": 1.0, "preparing": preparing})
        run_compare(config)
        why = rows_of(config)["salun.0"]["failed"]
        assert why is None if failed is None else why.startswith(failed)


def of_ours(digits: Path, base_model: Path, classifier: Path, folder: Path) -> CompareConfig:
    return CompareConfig(
        output=str(folder / "out"),
        model=tiny_config(digits, base_model, folder).model,
        data=str(digits / "data"),
        forget=str(digits / "split" / "forget"),
        remain=str(digits / "split" / "remain"),
        methods={"ours": {}},
        seeds=(0,),
        train={"train_batch_size": 4},
        engine=EngineConfig(device="cpu", num_threads=1),
        budget=BudgetConfig(seconds=1.5),
        judge=tiny_judge(classifier),
    )


def test_each_pace_is_of_its_own_methods_settings(
    digits: Path, base_model: Path, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = of_ours(digits, base_model, classifier, tmp_path)
    first = find_paces(config, print)
    # what makes no other run may still make another pace
    for changed in (
        dataclasses.replace(config, engine=dataclasses.replace(config.engine, forward_batch_size=1)),
        dataclasses.replace(config, train={"train_batch_size": 8}),
    ):
        assert not known_paces(changed)
        again = find_paces(changed, print)
        assert again == known_paces(changed) != first
    assert find_paces(config, print) == first == known_paces(dataclasses.replace(config, seeds=(1, 0)))
    with monkeypatch.context() as other:
        other.setenv("WORLD_SIZE", "4")
        assert not known_paces(config)

    # a method that is added is timed by itself
    run_compare(config)
    row = tmp_path / "out" / "rows" / "ours.0.json"
    before = row.read_text()
    more = dataclasses.replace(config, methods={"ours": {}, "finetune": {"method": {"name": "finetune"}}})
    run_compare(more)
    assert row.read_text() == before and known_paces(more)["ours"] == first["ours"]
    assert rows_of(more)["finetune.0"]["failed"] is None


def test_a_start_that_counts_for_nothing_is_not_counted(digits: Path, base_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_scrub(tiny_config(digits, base_model, run, method=SalUnConfig(num_mask_batches=1)))
    (first,) = run.glob("attempt-*")
    manifest = json.loads((first / "attempt.json").read_text())
    took = manifest["preparing_seconds"]
    assert preparing_seconds(run) == took > 0
    # killed before its first checkpoint, and begun once more
    (run / "attempt-0002").mkdir()
    write_json(run / "attempt-0002" / "attempt.json", manifest | {"preparing_seconds": 7})
    assert preparing_seconds(run) == 7
    # the second went on from the first's checkpoint, and prepared nothing
    again = {"preparing_seconds": None, "began_from": "attempt-0001/checkpoint-000001", "first_step": 1}
    write_json(run / "attempt-0002" / "attempt.json", manifest | again)
    assert preparing_seconds(run) == took
    for folder in run.glob("attempt-*"):
        shutil.rmtree(folder)
    assert preparing_seconds(run) == 0, "nobody knows any more"
