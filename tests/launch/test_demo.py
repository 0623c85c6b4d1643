"""The demo: its data and pictures at once, the whole of it among the slow tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from erasediff.launch import demo, text_demo
from erasediff.launch.cli import main
from erasediff.launch.demo_steps import write_request
from erasediff.launch.preview import Preview, digits_shape
from erasediff.shards.dataset import Dataset, check_disjoint
from erasediff.shards.sources.digits_in_ink import COLOURS, DIGITS
from erasediff.trainer.config import EngineConfig, OptimizerConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.evidence.prompt_file import read_prompts
from erasediff.trainer.evidence.record import read_record
from erasediff.trainer.ranks.collectives import set_up


def test_what_is_trained_on_held_out_and_forgotten(tmp_path: Path) -> None:
    training, held_out = demo._data(tmp_path, 3)
    trained, unseen = Dataset.open(training), Dataset.open(held_out)
    check_disjoint(trained, unseen)
    assert (len(trained), len(unseen)) == (1597, 200)
    # the retrained model sees the same without the 3s
    remain = Dataset.open(tmp_path / "sets" / "remain")
    assert set(remain.keys) == {key for key, label in zip(trained.keys, trained.labels, strict=True) if label != 3}
    assert not (tmp_path / "sets" / "forget").exists(), "a copy of the 3s that no record would name"
    assert f"{len(trained):,} real handwritten digits" in demo._plan(tmp_path, 3)

    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert demo._data(tmp_path, 3) == (training, held_out)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == stamps
    with pytest.raises(ValueError, match="holds a demo that forgets something else"):
        demo._data(tmp_path, 4)


def test_a_digit_that_is_none(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["demo", "--forget-label", "12", "--output", str(tmp_path / "demo")]) == 2
    assert capfd.readouterr().err == "erasediff: --forget-label 12: a digit, 0 to 9\n"
    assert not (tmp_path / "demo").exists()


def test_live_samples_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    shape = digits_shape()
    device = set_up(EngineConfig(device="cpu"))
    model = ShardedModel(shape.module, EngineConfig(device="cpu"), OptimizerConfig(), device, max_train_steps=1)
    before = model.theta.data.clone()
    preview = Preview(shape, [0, 1, 2, 3, 4, 5, 6], list("0123456"), every=20)
    capsys.readouterr()
    preview(0, model)
    first = capsys.readouterr().out
    preview(19, model)
    assert capsys.readouterr().out == ""
    preview(20, model)
    second = capsys.readouterr().out
    lines = first.splitlines()
    assert lines[0].split() == list("0123456") and all(len(line) <= 80 for line in lines)
    assert lines[1].split()[0] == "0" and second.splitlines()[0].split()[0] == "20"
    # the same noise, the same weights: the same picture, four lines of it
    assert [line[10:] for line in lines[1:5]] == [line[10:] for line in second.splitlines()[:4]]
    assert np.array_equal(model.theta.data, before)


@pytest.mark.parametrize(("concept", "classes", "kept"), [("three", DIGITS, COLOURS), ("red", COLOURS, DIGITS)])
def test_what_the_text_demo_asks_for(tmp_path: Path, concept: str, classes: Any, kept: Any) -> None:
    data, other = map(Dataset.open, text_demo._data(tmp_path, concept))
    assert (data.classes, other.classes, data.keys) == (classes, kept, other.keys)
    remain = Dataset.open(tmp_path / "sets" / "remain")
    assert len(remain) == (data.labels != classes.index(concept)).sum()
    assert not any(concept in remain.text(i).split() for i in range(len(remain)))
    assert not (tmp_path / "sets" / "forget").exists(), "a copy that no record would name"
    assert text_demo._data(tmp_path, concept) == (data.path, other.path), "a continued demo"

    prompts = read_prompts(tmp_path / "prompts.csv")
    assert len(prompts) == 6 * 6 * 10 and len({one.phrasing for one in prompts}) == 6
    for one in prompts:
        words = one.prompt.split()
        assert one.of_class in words and one.factor in words
        assert one.of_class in classes and one.factor in kept
    told = {data.text(i) for i in range(len(data))}
    unheard = {one.phrasing for one in prompts} - {one.phrasing for one in prompts if one.prompt in told}
    assert len(unheard) == 1, "one phrasing was never trained on"

    erasure = text_demo._erasure(tmp_path, tmp_path / "base", tmp_path / "data", tmp_path / "other", concept)
    assert erasure.method.anchors == ("four" if concept == "three" else "green",)  # pyright: ignore[reportAttributeAccessIssue]
    settings = text_demo._pretrain(tmp_path, tmp_path / "sets" / "remain", "retrained").stable_diffusion
    assert {*settings.words} >= {word for one in prompts for word in one.prompt.split()}


def test_a_word_that_is_none(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["demo", "--text", "--concept", "cat", "--output", str(tmp_path / "demo")]) == 2
    assert capfd.readouterr().err.startswith("erasediff: --concept cat: one of zero, one, two")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--concept", "red"], "--concept red: without --text a digit is erased; give --text, too"),
        (["--text", "--forget-label", "7"], "--forget-label 7: with --text it is --concept that is erased"),
    ],
)
def test_an_option_of_the_other_demo(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], said: str
) -> None:
    assert main(["demo", *words, "--output", str(tmp_path / "demo")]) == 2
    assert capfd.readouterr().err.strip() == f"erasediff: {said}"
    assert not (tmp_path / "demo").exists()


def test_a_folder_that_is_no_demos(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "demo" / "data").mkdir(parents=True)
    for words in (["demo"], ["demo", "--text"]):
        assert main([*words, "--output", str(tmp_path / "demo")]) == 2
        said = f"erasediff: --output {tmp_path / 'demo'} is not empty and holds no demo: choose another folder\n"
        assert capfd.readouterr().err == said
    assert [path.name for path in tmp_path.rglob("*")] == ["demo", "data"]


@pytest.mark.parametrize("text", [[], ["--text"]])
def test_places_where_no_demo_can_be(capfd: pytest.CaptureFixture[str], tmp_path: Path, text: list[str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "request.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "folder" / "request.toml").mkdir(parents=True)
    for name, said in (
        ("file", f"'{tmp_path}/file' is a file: name another folder"),
        ("file/demo", f"'{tmp_path}/file' is a file: name another folder"),
        ("link", "is a link to what is not there: choose another folder"),
        ("bytes", "holds a demo that forgets something else: choose another folder"),
        ("folder", "is not empty and holds no demo: choose another folder"),
    ):
        assert main(["demo", *text, "--output", str(tmp_path / name)]) == 2
        out, err = capfd.readouterr()
        assert err.startswith("erasediff: --output ") and err.endswith(f"{said}\n") and out == ""


def test_a_request_that_was_never_whole_does_not_lock_its_demo_out(tmp_path: Path) -> None:
    (tmp_path / "request.toml.partial").write_text("")
    assert write_request(tmp_path, "as asked").read_text() == "as asked"
    assert [path.name for path in tmp_path.iterdir()] == ["request.toml"]


def test_a_demo_that_is_stopped_has_saved(tmp_path: Path) -> None:
    """Both of its trainings: neither goes on, and neither begins again."""
    command = [sys.executable, "-m", "erasediff.launch", "demo", "--output", "demo"]
    attempts = [tmp_path / "demo" / name / "attempt-0001" for name in ("base", "retrained")]
    outputs: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **outputs) as demo:
        while demo.poll() is None and not all((attempt / "metrics.jsonl").exists() for attempt in attempts):
            time.sleep(0.2)
        demo.terminate()
        try:
            _, said = demo.communicate(timeout=120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(demo.pid, signal.SIGKILL)
    assert demo.returncode == os.EX_TEMPFAIL, said
    assert "all saved" in said.splitlines()[-1]
    assert "all saved" in (tmp_path / "demo" / "retrained.log").read_text().splitlines()[-1]
    assert all(any(attempt.glob("checkpoint-*")) for attempt in attempts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_demo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "erasediff.launch", "demo", "--output", "demo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^  PASS  ", done.stdout, re.MULTILINE)) == 5
    assert "forgetting  SHOWN" in done.stdout
    record = read_record(tmp_path / "demo" / "erased" / "record.json")
    assert list(record.models) == ["unscrubbed", "scrubbed", "retrained"] and record.verdict == "shown"
    figures = {name: entry.metrics["p_psi"].value for name, entry in record.models.items()}
    assert figures["unscrubbed"] is not None and figures["unscrubbed"] > 0.9
    assert figures["scrubbed"] is not None and figures["scrubbed"] <= 0.08
    kept = {name: entry.metrics["accuracy_remaining"].value for name, entry in record.models.items()}
    assert kept["unscrubbed"] is not None and kept["scrubbed"] is not None
    assert kept["scrubbed"] >= kept["unscrubbed"] - 0.01
    assert (tmp_path / "demo" / "erased" / "model" / "model_index.json").exists()
    assert (tmp_path / "demo" / "erased" / "report.html").exists()
