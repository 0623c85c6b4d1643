"""Rows beside earlier ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from erasediff.launch.cli import main
from erasediff.trainer.bench.command import compare_files
from erasediff.trainer.bench.compare import regressions
from erasediff.trainer.errors import ConfigError, TrainingError
from erasediff.trainer.files import write_text


def row(seconds: float = 1.0, spread: float = 0.01, **changes: Any) -> dict[str, Any]:
    measured = {"seconds": seconds, "seconds_by_round": [seconds - spread, seconds, seconds + spread]}
    where = {"model": "UNet, 5 parameters", "device": "cpu", "num_ranks": 1, "num_nodes": 1, "num_threads": 2}
    return {"status": "ok", "settings": {"train.train_batch_size": 4}, **where, **measured, **changes}


HERE = Path("old.jsonl")


@pytest.mark.parametrize(
    ("now", "is_slower"),
    [
        (row(1.04), False),
        (row(1.06), True),
        (row(0.5), False),
        # within two standard errors: 2 · .0572 / √3 = .066 of a logarithm, and 2 · .0840 / √3 = .097
        (row(1.06, spread=0.06), False),
        (row(1.2, spread=0.1), True),
    ],
)
def test_a_regression_is_5_percent_and_beyond_the_noise_of_both(now: dict[str, Any], is_slower: bool) -> None:
    assert bool(regressions([now], [row(1.0)], HERE)) == is_slower


def test_what_then_was_spread_counts_too() -> None:
    assert regressions([row(1.2)], [row(1.0)], HERE)
    assert not regressions([row(1.2)], [row(1.0, spread=0.3)], HERE)


def test_rows_of_the_same_combination_are_compared_and_the_newest_counts() -> None:
    other = {"train.train_batch_size": 8}
    earlier = [row(1.0), row(2.0, settings=other), row(3.0)]
    assert not regressions([row(2.9)], earlier, HERE)
    (line,) = regressions([row(2.9), row(2.5, settings=other)], earlier, HERE)
    assert line == "train.train_batch_size = 8: 2.5 s, 2 s before (+25%, of which 1% may be noise)"


def test_of_each_number_of_nodes_one_is_told_apart() -> None:
    earlier = [row(1.0, num_ranks=2 * nodes, num_nodes=nodes) for nodes in (1, 2, 4)]
    later = [row(seconds, num_ranks=2 * nodes, num_nodes=nodes) for seconds, nodes in ((1.1, 1), (1.2, 2), (1.0, 4))]
    assert [line.partition(":")[0] for line in regressions(later, earlier, HERE)] == [
        "train.train_batch_size = 4, 2 ranks on 1 node",
        "train.train_batch_size = 4, 4 ranks on 2 nodes",
    ]


def test_more_rounds_find_less() -> None:
    few, many = (row(1.06, seconds_by_round=[1.0, 1.06, 1.12] * n) for n in (1, 10))
    assert not regressions([few], [row(1.0, spread=0.0)], HERE) and regressions([many], [row(1.0, spread=0.0)], HERE)


def test_what_did_not_run_since_hides_nothing() -> None:
    failed = {name: value for name, value in row(status="out of memory").items() if not name.startswith("seconds")}
    assert regressions([row(2.0)], [row(1.0), failed], HERE)


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--compare old.jsonl: .*: 2 rounds tell too little of noise: --rounds 3"):
        regressions([row()], [row(seconds_by_round=[1.0, 1.0])], HERE)


def test_what_no_longer_runs_is_slower() -> None:
    short = {name: value for name, value in row(status="out of memory").items() if not name.startswith("seconds")}
    assert regressions([short], [row()], HERE) == ["train.train_batch_size = 4: out of memory, and ran before"]
    assert not regressions([row()], [short], HERE)


@pytest.mark.parametrize(
    "other",
    [
        *({"device": "NVIDIA H100"}, {"num_ranks": 2}, {"num_nodes": 2}, {"num_threads": 1}),
        *({"settings": {}}, {"model": "another"}),
    ],
)
def test_rows_of_something_else_are_no_measure(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^--compare old.jsonl: none of its rows is of a combination"):
        regressions([row()], [row(**other)], HERE)


def test_a_setting_that_one_side_does_not_know_is_its_default_there() -> None:
    """So that rows of another version compare, and a changed default is no regression."""
    new: dict[str, Any] = {"defaults": {"engine.fused": False, "engine.zero_stage": 2}}
    assert regressions([row(1.2, **new)], [row(1.0)], HERE)
    assert regressions([row(1.2)], [row(1.0, **new)], HERE)
    chosen: dict[str, Any] = {"settings": row()["settings"] | {"engine.fused": True}}
    for now, then in ((row(1.2, **chosen), row()), (row(1.2), row(**chosen)), (row(1.2, **chosen), row(**new))):
        with pytest.raises(ConfigError, match="none of its rows is of a combination"):
            regressions([now], [then], HERE)
    # the default was another one then: by default is not the same combination
    with pytest.raises(ConfigError, match="none of its rows is of a combination"):
        regressions([row(1.2, **new)], [row(defaults={"engine.zero_stage": 1})], HERE)
    # what is set here was the default there
    set_here: dict[str, Any] = {"settings": row()["settings"] | {"engine.zero_stage": 1}}
    assert regressions([row(1.2, **set_here)], [row(defaults={"engine.zero_stage": 1})], HERE)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_files_are_compared_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = write(tmp_path / "old.jsonl", row(1.0)), write(tmp_path / "new.jsonl", row(1.2))
    with pytest.raises(TrainingError, match=r"^slower than in"):
        compare_files(old, new)
    assert main(["bench", "--compare", str(old), str(new)]) == 1
    assert capsys.readouterr().err == (
        f"erasediff: slower than in {old}: train.train_batch_size = 4: 1.2 s, 1 s before (+20%, of which 2% may be "
        "noise)\n"
    )
    assert main(["bench", "--compare", str(new), str(old)]) == 0
    assert capsys.readouterr().out == "nothing is slower\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not rows of `erasediff bench`"),
        ('{"a": 1}\n', "not a row of `erasediff bench`"),
        (json.dumps(row(seconds_by_round=[])), "not a row of `erasediff bench`"),
        (json.dumps(row(settings=None)), "not a row of `erasediff bench`"),
        (None, "no such file"),
    ],
)
def test_what_is_no_file_of_rows_is_said_in_one_line(
    tmp_path: Path, text: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "old.jsonl").write_text(text)
    assert main(["bench", "--compare", str(tmp_path / "old.jsonl"), str(tmp_path / "old.jsonl")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"erasediff: --compare {tmp_path / 'old.jsonl'}: {said}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "a-file"], "rows = 'a-file' is a file: name another"),
        (["--rows", "a-file/rows"], "rows = 'a-file/rows': 'a-file' is a file"),
        (["--rows", "rows", "--trace", "a-folder"], "trace = 'a-folder' is a folder: name another"),
        (["--rows", "odd"], "rows: odd/bench.jsonl: not rows of `erasediff bench`"),
        (
            ["--rows", "old", "--compare", "old/../old/bench.jsonl"],
            "--compare old/../old/bench.jsonl: rows are added to",
        ),
        (["--compare", "old/bench.jsonl", "--rounds", "2"], "--compare: --rounds 2 tells too little of noise: 3 at"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_timed(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    for folder, text in (("a-folder", None), ("odd", "{"), ("old", json.dumps(row()))):
        Path(folder).mkdir()
        if text is not None:
            write_text(Path(folder) / "bench.jsonl", text + "\n")
    assert main(["bench", "--model.path", str(base_model), "--engine.device", "cpu", *words]) == 2
    assert capsys.readouterr().err.startswith(f"erasediff: {said}")
    assert not Path("rows").exists()
