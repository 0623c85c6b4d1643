"""The options of `erasediff shards …` as a user types them."""

import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from erasediff.launch.shards import Build, Inspect, Split, Verify
from erasediff.shards import DataError, Dataset
from erasediff.shards.writing.progress import show_progress

COMMANDS = {"Build": Build, "Split": Split, "Verify": Verify, "Inspect": Inspect}


def test_build_split_verify_inspect(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets, cut = str(tmp_path / "pets"), str(tmp_path / "cut")
    tyro.cli(
        Build, args=[str(pictures), pets, "--max-shard-samples", "4", "--name", "pets", "--num-workers", "2"]
    ).run()
    assert "pets: 9 samples, 3 classes, 3 shard(s)" in capsys.readouterr().out
    tyro.cli(Split, args=[pets, cut, "--forget-label", "dog", "--forget-label", "émeu"]).run()
    printed = capsys.readouterr().out
    assert "forget: 5 samples" in printed
    assert "remain: 4 samples" in printed
    tyro.cli(Verify, args=[cut, "--no-decode"]).run()
    assert "no problem found" in capsys.readouterr().out
    tyro.cli(Inspect, args=[f"{cut}/remain"]).run()
    assert "4  cat" in capsys.readouterr().out
    (tmp_path / "request.toml").write_text('id = "1"\n[[selectors]]\nkeys = ["cat/0"]\n')
    request = str(tmp_path / "request.toml")
    tyro.cli(Split, args=[pets, str(tmp_path / "one"), "--request", request, "--rewrite"]).run()
    assert "shards of its own" in capsys.readouterr().out
    assert Dataset.open(tmp_path / "one" / "forget").keys == ["cat/0"]


@pytest.mark.parametrize("num_workers", [0, -1])
def test_workers_are_at_least_one(digits: Dataset, tmp_path: Path, num_workers: int) -> None:
    out = tmp_path / "out"
    for command in (
        Build("digits", out, num_workers=num_workers),
        Split(digits.path, out, forget_label=("3",), num_workers=num_workers),
        Verify(digits.path, num_workers=num_workers),
    ):
        with pytest.raises(DataError, match=f"num_workers: {num_workers}; at least 1 is needed"):
            command.run()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_neither_torch_nor_numpy(command: str) -> None:
    code = (
        f"import sys, tyro\nfrom erasediff.launch.shards import {command}\n"
        f"try: tyro.cli({command}, args=['--help'])\n"
        "except SystemExit: sys.exit(bool({'torch', 'numpy', 'webdataset'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "positional arguments" in printed


def test_progress_on_a_terminal_and_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("erasediff.shards.writing.progress._LINE_SECONDS", 0.0)
    with show_progress("shards") as progress:
        progress(3, 1000)
    assert capsys.readouterr().err == "3 of 1,000 shards\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with show_progress("shards") as progress:
        progress(3, 1000)
