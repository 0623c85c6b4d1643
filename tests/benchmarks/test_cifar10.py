"""The paper's experiment at a tiny size: every stage goes on where it stopped, and the table has every row."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from erasediff.trainer.config.compare import RETRAINED, UNSCRUBBED
from erasediff.trainer.pretrain import run_pretrain
from PIL import Image
from sklearn.datasets import load_digits
from table_cases import table_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NUM_PICTURES = 6


def load(name: str) -> Any:
    """A benchmark's module; its folder stays off sys.path, where its `kernels` would stand before Hugging Face's."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


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
    for stage in ("base", "judge", "retrained", "compare", "cost", "table"):
        assert CIFAR10.main([*words, "--stages", stage]) == 0, stage
    return output, words


def rows(output: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in (output / "compare" / "rows").glob("*.json")}


def test_the_table_has_every_row(made: tuple[Path, list[str]]) -> None:
    output, _ = made
    text = (output / "cifar10.md").read_text()
    table, costs, goals = (table_of(text.split("\n## ")[part]) for part in range(3))
    assert [*table] == [UNSCRUBBED, RETRAINED, *CIFAR10.METHODS]
    assert "Incomplete" not in text and "seeds were run" not in text and "ended early" not in text
    found = rows(output)
    by_name = {row["name"]: row for row in found.values()}
    for name, cells in table.items():
        metrics = by_name[name]["metrics"]
        for column, metric in (("P_psi", "p_psi"), ("FD", "frechet_distance[cifar10-resnet6]")):
            assert cells[column] == f"{metrics[metric]['value']:.3f}", (name, column)
    paper = [table["EraseDiff rl"][f"{name}, paper"] for name in ("FID", "precision", "recall", "P_psi")]
    assert paper == ["8.66", "0.43", "0.77", "0.24"] and table[RETRAINED]["FID, paper"] == "–"
    took = [json.loads(path.read_text()) for path in (output / "cost").glob("salun.*.json")]
    assert costs["salun"]["runs"] == "2 of 2" and costs["salun"]["minutes, paper"] == "28.17"
    mean = sum(one["seconds"] for one in took) / 2
    assert costs["salun"]["s"].startswith(f"{mean:.1f} ±")
    # ten classes count alike
    before = by_name[UNSCRUBBED]["metrics"]
    agreement = 0.9 * before["accuracy_remaining"]["value"] + 0.1 * (1 - before["unlearning_accuracy"]["value"])
    assert goals["base model drawing what it is asked for"]["found"] == f"{agreement:.3g}"
    ratio = goals["EraseDiff noise: FD of the rest over that before"]
    distances = [
        by_name[name]["metrics"]["frechet_distance[cifar10-resnet6]"]["value"]
        for name in ("EraseDiff noise", UNSCRUBBED)
    ]
    assert ratio["found"] == f"{distances[0] / distances[1]:.3g}"
    assert ratio[""] == ("met" if distances[0] <= 1.1 * distances[1] else "not met")
    assert len(goals) == 1 + 3 * 5


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
    # killed after its third step, the base model's training went on from its checkpoint
    attempts = [json.loads(path.read_text()) for path in sorted((output / "base").glob("attempt-*/attempt.json"))]
    assert [attempt["first_step"] for attempt in attempts] == [0, 2]
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
    # a row that is missing is measured beside its references, from the scrub that is there
    again = {str(path) for path in (row, cost, *(row.with_name(f"{name}.json") for name in (UNSCRUBBED, RETRAINED)))}
    assert {path for path, stamp in after.items() if stamp != before[path]} == again
    assert all(found["metrics"] == contents[name]["metrics"] for name, found in rows(output).items())


def test_what_is_missing_is_named(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    output, words = tmp_path / "out", made[1]
    shutil.copytree(made[0] / "compare" / "rows", output / "compare" / "rows")
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
