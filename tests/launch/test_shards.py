"""The commands of the data: reached, and tried dry."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from erasediff.launch.cli import main
from erasediff.shards import Dataset


def test_every_command_of_the_shards_is_reached(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "verify", str(digits / "data")]) == 0
    assert "no problem found" in capsys.readouterr().out
    assert main(["shards", "inspect", str(digits / "data")]) == 0
    assert "1,797 samples" in capsys.readouterr().out


def test_dry_runs_of_the_data_say_what_the_runs_then_write(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*words: str) -> str:
        assert main(["shards", *words]) == 0
        return capsys.readouterr().out

    three, rest = digits / "split" / "forget", digits / "split" / "remain"
    build = ["build", "digits", str(tmp_path / "data"), "--max-shard-samples", "500"]
    said = printed(*build, "--dry-run")
    assert said.startswith(
        "would build digits: 1,797 samples of 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), 4 shard(s), "
    )
    assert not (tmp_path / "data").exists()
    assert "1,797 samples, 10 classes, 4 shard(s)" in printed(*build)
    (tmp_path / "tars").mkdir()
    for tar in (tmp_path / "data").glob("*.tar"):
        shutil.copy(tar, tmp_path / "tars")
    tars = ["build", str(tmp_path / "tars"), str(tmp_path / "indexed"), "--name", "again"]
    assert printed(*tars, "--dry-run") == "would build again: 4 tar(s), indexed where they are\n"

    split = ["split", str(digits / "data"), str(tmp_path / "split"), "--forget-label", "3"]
    forget, remain = printed(*split, "--dry-run").splitlines()
    assert forget == f"forget: {len(Dataset.open(three)):,} of 1,797 samples would lie there: 183 of 3"
    assert remain.startswith(
        f"remain: {len(Dataset.open(rest)):,} of 1,797 samples would lie there: 178 of 0, 182 of 1"
    )
    assert " of 3" not in remain and not (tmp_path / "split").exists()
    assert main(["shards", "split", str(digits / "data"), str(three), "--forget-label", "3", "--dry-run"]) == 2
    assert f"{three}: exists already" in capsys.readouterr().err
