"""`compare` on two ranks: the rows of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from erasediff.launch.cli import main
from erasediff.trainer.config import CompareConfig, EngineConfig
from erasediff.trainer.config.toml import dump_toml
from evidence_cases import make_classifier, tiny_judge
from ranks import check, run_ranks


@pytest.mark.slow
def test_two_ranks_write_the_rows_of_one(digits: Path, base_model: Path, tmp_path: Path) -> None:
    """One of the methods ends early, on both."""
    judge = tiny_judge(make_classifier(digits, tmp_path / "classifier.safetensors"))
    scrub = tiny.tiny_config(digits, base_model, tmp_path)

    def run_with(output: str) -> Path:
        config = CompareConfig(
            str(tmp_path / output),
            scrub.model,
            str(digits / "data"),
            scrub.forget,
            scrub.remain,
            methods={"ours": {}, "too fast": {"optimizer": {"learning_rate": 1e9, "name": "sgd"}}},
            train={"max_train_steps": 3, "train_batch_size": 4},
            engine=EngineConfig(device="cpu", num_threads=1),
            judge=judge,
        )
        file = tmp_path / f"{output}.toml"
        file.write_text(dump_toml(config))
        return file

    assert main(["compare", str(run_with("one"))]) == 0
    finished = run_ranks(2, ["-m", "erasediff.launch", "compare", str(run_with("two"))])
    check(finished)
    assert "page:" in finished[0].stdout and not finished[1].stdout
    one, two = (rows(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys() and len(one) == 3
    for name, row in one.items():
        assert row["failed"] == two[name]["failed"], name
        for metric, figure in row["metrics"].items():
            assert two[name]["metrics"][metric]["value"] == pytest.approx(figure["value"], rel=1e-3, abs=1e-3), metric


def rows(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in (folder / "rows").glob("*.json")}
