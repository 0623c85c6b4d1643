"""The paper's experiment at a tiny size: every stage goes on where it stopped, and the table has every row."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_modules import load
from erasediff.trainer.config.compare import RETRAINED, UNSCRUBBED
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.ranks import meeting
from PIL import Image
from sklearn.datasets import load_digits
from table_cases import table_of

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NUM_PICTURES = 6


load("rows")
TABLE = load("cifar10_table")
CIFAR10 = load("cifar10")


class Killed(Exception):
    pass


def kill(step: int, model: object) -> None:
    if step == 3:
        raise Killed


def stamps(folder: Path, *patterns: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for pattern in patterns for path in folder.glob(pattern)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """OUTPUT, after every stage by itself, and the words that make it."""
    folder = tmp_path_factory.mktemp("cifar10")
    digits: Any = load_digits()
    for label, name in enumerate(CLASSES):
        (folder / "pictures" / "train" / name).mkdir(parents=True)
        for number, picture in enumerate(digits.images[digits.target == label][:NUM_PICTURES]):
            image = Image.fromarray((picture * 15.9).astype(np.uint8)).resize((32, 32)).convert("RGB")
            image.save(folder / "pictures" / "train" / name / f"{number:04d}.jpg")
    output = folder / "out"
    words = ["--tiny", "--device", "cpu", "--output", str(output), "--cost-seeds", "0", "1"]
    assert CIFAR10.main([*words, "--images", str(folder / "pictures"), "--stages", "shards"]) == 0
    with pytest.raises(Killed):
        run_pretrain(CIFAR10.base_config(CIFAR10.Options(output=output, device="cpu", tiny=True)), watch=kill)
    meeting.ask()  # as a signal does: after its next step
    assert CIFAR10.main([*words, "--stages", "base", "judge"]) == os.EX_TEMPFAIL
    assert not (output / "classifier.safetensors").exists()
    for stage in ("base", "judge", "retrained", "compare", "cost", "table"):
        assert CIFAR10.main([*words, "--stages", stage]) == 0, stage
    return output, words


def rows(output: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in (output / "compare" / "rows").glob("*.json")}


def test_the_table_has_every_row(made: tuple[Path, list[str]]) -> None:
    text = (made[0] / "cifar10.md").read_text()
    table, costs, goals = (table_of(text.split("\n## ")[part]) for part in range(3))
    assert [*table] == [UNSCRUBBED, RETRAINED, *CIFAR10.METHODS]
    assert all("–" not in cells["P_psi"] + cells["FD"] + cells["relearning"] for cells in table.values())
    assert "Incomplete" not in text and "seeds were run" not in text and "ended early" not in text
    assert [*costs] == [*TABLE.PRINTED_COSTS] and {cells["runs"] for cells in costs.values()} == {"2 of 2"}
    assert len(goals) == 1 + 3 * 5 and "not measured" not in text
    assert "Judge: cifar10-resnet6, right on" in text and "Device: cpu; " in text and "--stages table" in text


def moved(row: Path, made: Path, output: Path) -> str:
    """A copied row as one that was made in `output`: its settings name model and sets by their paths."""
    return row.read_text().replace(str(made), str(output))


def test_each_figure_stands_where_it_belongs(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Rows whose figures all differ, as those of models of four steps hardly do."""
    output, figures = tmp_path / "out", {}
    shutil.copytree(made[0], output)
    columns = {"P_psi": "p_psi", "FD": "frechet_distance[cifar10-resnet6]", "recall": "recall[cifar10-resnet6]"}
    columns |= {"precision": "precision[cifar10-resnet6]", "accuracy on the rest": "accuracy_remaining"}
    columns |= {"entropy": "entropy"}
    paths = sorted((output / "compare" / "rows").glob("*.json"))
    for number, path in enumerate(paths):
        row = json.loads(moved(path, made[0], output))
        for place, metric in enumerate(columns.values()):
            row["metrics"][metric]["value"] = (number + 20 * place) / 125
        row["derived"]["relearning_area"]["value"] = (number + 120) / 140
        figures[row["name"]] = {name: row["metrics"][metric]["value"] for name, metric in columns.items()}
        if row["training"] is not None:
            row["training"] |= {"seconds": 50.0 + number, "peak_bytes": (number + 1) << 20}
            figures[row["name"]] |= {"s": 50.0 + number, "peak MiB": number + 1}
        path.write_text(json.dumps(row))
    assert CIFAR10.main([*made[1], "--output", str(output), "--stages", "table"]) == 0
    table, costs, goals = (table_of(part) for part in (output / "cifar10.md").read_text().split("\n## ")[:3])
    for name, found in figures.items():
        for column in columns:
            assert table[name][column] == f"{found[column]:.3f}", (name, column)
        if "s" in found:
            assert (table[name]["s"], table[name]["peak MiB"]) == (f"{found['s']:.1f}", str(found["peak MiB"]))
    areas = [float(cells["relearning"]) for cells in table.values()]
    assert sorted(areas) == [pytest.approx((number + 120) / 140, abs=5e-4) for number in range(len(paths))]
    # as arXiv 2401.05779 prints them
    paper = [table["EraseDiff rl"][f"{name}, paper"] for name in ("FID", "precision", "recall", "P_psi")]
    assert paper == ["8.66", "0.43", "0.77", "0.24"] and table[RETRAINED]["FID, paper"] == "–"
    took = [json.loads(path.read_text())["cost"] for path in (output / "cost").glob("salun.*.json")]
    assert (costs["salun"]["MiB, paper"], costs["salun"]["minutes, paper"]) == ("4,336.2", "28.17")
    seconds, before = (sum(one[key] for one in took) / 2 for key in ("seconds", "preparing_seconds"))
    assert costs["salun"]["s"].startswith(f"{seconds:.1f} ±") and costs["salun"]["s before"].startswith(
        f"{before:.1f} ±"
    )
    # ten classes count alike
    others = json.loads((output / "compare/rows/unscrubbed.json").read_text())["metrics"]["unlearning_accuracy"][
        "value"
    ]
    agreement = 0.9 * figures[UNSCRUBBED]["accuracy on the rest"] + 0.1 * (1 - others)
    assert goals["base model drawing what it is asked for"]["found"] == f"{agreement:.3g}"
    for name in ("EraseDiff rl", "EraseDiff noise", "EraseDiff to the null class"):
        own = figures[name]
        for goal, found, limit in (
            ("P_psi of the airplane", own["P_psi"], 0.1),
            ("FD of the rest over that before", own["FD"] / figures[UNSCRUBBED]["FD"], 1.1),
            ("seconds of the scrub", own["s"], 60),
        ):
            cells = goals[f"{name}: {goal}"]
            assert (cells["found"], cells[""]) == (f"{found:.3g}", "met" if found <= limit else "not met"), name
            assert cells["wanted"] == f"≤ {limit:g}"
    assert goals["base model drawing what it is asked for"]["wanted"] == "≥ 0.85"
    assert {cells[""] for cells in goals.values()} == {"met", "not met"}


def test_models_and_settings_are_those_of_the_recipes(made: tuple[Path, list[str]]) -> None:
    found = rows(made[0])
    assert found["EraseDiff-noise.0"]["settings"]["method.eta"] == 1e-4
    assert found["EraseDiff-rl-value.0"]["settings"]["method.barrier"] == "value"
    full = CIFAR10.compare_config(CIFAR10.Options(output=made[0], device="cpu"))
    cases = {case.name: case.config for case in CIFAR10.cases_of(full)}
    assert {case.train.max_train_steps for case in cases.values()} == {300}
    assert {case.train.train_batch_size for case in cases.values()} == {128}
    assert cases["EraseDiff noise"].optimizer.learning_rate == 3e-4
    assert cases["salun"].optimizer.learning_rate == 1e-4
    base = CIFAR10.base_config(CIFAR10.Options(base_steps=7))
    assert base.unet.block_out_channels == (128, 256, 256, 256) and base.train.max_train_steps == 7


def test_every_stage_goes_on_where_it_stopped(made: tuple[Path, list[str]]) -> None:
    output, words = made
    # killed after its third step and stopped in the next start, the base model's training went on from its checkpoints
    attempts = [json.loads(path.read_text()) for path in sorted((output / "base").glob("attempt-*/attempt.json"))]
    assert [attempt["first_step"] for attempt in attempts] == [0, 2, 4]
    kept = ("data/*", "sets/*/*", "base/model/*.json", "classifier.safetensors", "compare/retrained/model/*.json")
    kept += ("compare/rows/*", "compare/runs/*/model/*.json", "cost/*.json")
    before, row, cost = stamps(output, *kept), output / "compare/rows/moo.0.json", output / "cost/salun.1.json"
    assert len(before) > 60
    contents = rows(output)
    row.unlink()
    cost.unlink()
    assert CIFAR10.main(words) == 0
    after = stamps(output, *kept)
    assert after.keys() == before.keys()
    # a row that is missing is measured from the scrub that is there, beside the references' samples that are kept
    assert {path for path, stamp in after.items() if stamp != before[path]} == {str(row), str(cost)}
    assert all(found["metrics"] == contents[name]["metrics"] for name, found in rows(output).items())


def test_what_is_missing_is_named(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    output, words = tmp_path / "out", made[1]
    shutil.copytree(made[0] / "compare" / "rows", output / "compare" / "rows")
    for path in (output / "compare" / "rows").glob("*.json"):
        path.write_text(moved(path, made[0], output))
    for name in (RETRAINED, "esd.0"):
        (output / "compare" / "rows" / f"{name}.json").unlink()
    assert CIFAR10.main([*words, "--output", str(output), "--stages", "table"]) == 0
    text = (output / "cifar10.md").read_text()
    assert "**Incomplete: no row of the retrained model.**" in text
    assert "- esd: 0 of 1 seeds were run." in text
    parts = text.split("\n## ")
    assert table_of(parts[0])["esd"]["P_psi"] == "–" and table_of(parts[1])["salun"]["runs"] == "0 of 2"


def test_pictures_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert CIFAR10.main(["--output", str(tmp_path / "out"), "--stages", "shards"]) == 1
    assert "--images: name CIFAR-10's training pictures" in capsys.readouterr().err
