"""Outputs that cannot be: places where nothing can lie, and pictures that nobody can look at."""

from __future__ import annotations

import shutil
from pathlib import Path

import erasediff.trainer.sample
import pytest
import torch
from erasediff.launch.cli import main
from erasediff.trainer.config import ModelConfig, ScrubConfig
from erasediff.trainer.config.toml import dump_toml
from erasediff.trainer.methods.moo import MOOConfig
from mistakes import fails
from safetensors.torch import load_file, save_file


def scrub(digits: Path, base_model: Path) -> list[str]:
    """Of a dry run, its output yet to be named."""
    words = ["scrub", "--model.path", str(base_model), "--model.null-class", "10", "--dry-run"]
    return [*words, "--forget", f"{digits}/split/forget", "--remain", f"{digits}/split/remain", "--output"]


def test_a_file_where_a_folder_should_be(
    digits: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.txt"
    file.write_text("")
    sample = ["sample", "--model.path", str(base_model), "--output"]
    delta = ["delta", "--base", str(base_model), "--model", str(base_model), "--output"]
    for words, name in (
        (scrub(digits, base_model), "run"),
        (["pretrain", "--data", str(digits / "data"), "--output"], "run"),
        (sample, "a.png"),
    ):
        said = f"output = '{file}/{name}': '{file}' is a file: name another folder"
        assert fails([*words, f"{file}/{name}"], capsys) == said
    said = f"--output = '{file}/a.safetensors': '{file}' is a file: name another folder"
    assert fails([*delta, f"{file}/a.safetensors"], capsys) == said
    assert fails([*delta, str(tmp_path / "a.txt")], capsys).endswith("the file ends in .safetensors")
    assert fails(["scrub", f"{file}/x.toml"], capsys) == f"'{file}/x.toml': one of its folders is a file: name another"


def test_a_run_of_another_command(
    digits: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text('data = "d"\nclasses = []\noutput = "run"\n')
    assert "holds a run of another command, which has classes: choose" in fails(
        [*scrub(digits, base_model), str(tmp_path / "run")], capsys
    )


def test_a_config_toml_that_is_no_runs(
    digits: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, words = tmp_path / "run", scrub(digits, base_model)
    run.mkdir()
    for text in (b'title = "my project"\n', b"\xff\xfe", b"[unfinished"):
        (run / "config.toml").write_bytes(text)
        said = fails([*words, str(run)], capsys)
        assert said == f"output = '{run}' is not empty and holds no run: choose another output"
    # a run's that was torn is said to be just that
    (run / "attempt-0001").mkdir()
    assert "config.toml is not TOML: " in fails([*words, str(run)], capsys)


def test_a_run_of_this_command_is_not_called_anothers(
    digits: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option of the other method is one of its own settings."""
    run, words = tmp_path / "run", scrub(digits, base_model)
    run.mkdir()
    config = ScrubConfig(
        model=ModelConfig(str(base_model), null_class=10),
        forget=f"{digits}/split/forget",
        remain=f"{digits}/split/remain",
        output=str(run),
        method=MOOConfig(weight=0.5),
    )
    (run / "config.toml").write_text(dump_toml(config))
    assert "holds another run: method." in fails([*words, str(run)], capsys)


def test_a_picture_that_is_none(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(base_model, model)
    words = ["sample", "--model.path", str(model), "--output", str(tmp_path / "a.png"), "--labels", "3"]
    words += ["--num-images", "1", "--sampling.num-inference-steps", "1"]
    assert "is the most: lower one of them" in fails([*words, "--scale", "1000000"], capsys)
    # by all of its rows and columns, not by one picture
    rows = ["--labels", "3", "4", "--num-images", "10", "--scale", "300"]
    assert "would have 115,200,000 pixels" in fails([*words, *rows], capsys)
    one_of_two = [torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), torch.nan)]
    monkeypatch.setattr(erasediff.trainer.sample, "sample", lambda *_, **__: torch.cat(one_of_two))
    assert main(words) == 1 and capsys.readouterr().err.endswith("draws NaN or infinity: its weights are broken\n")
    monkeypatch.undo()
    (weights,) = (model / "unet").glob("*.safetensors")
    save_file({name: value * torch.nan for name, value in load_file(weights).items()}, weights)
    assert main(words) == 1
    assert capsys.readouterr().err == f"erasediff: {model}: draws NaN or infinity: its weights are broken\n"
    assert not (tmp_path / "a.png").exists()


def test_pictures_that_memory_does_not_hold(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(erasediff.trainer.sample, "sample", refuse)
    assert main(["sample", "--model.path", str(base_model), "--output", str(tmp_path / "a.png")]) == 1
    said = "(CUDA out of memory. Tried to allocate 20 GiB): lower --num-images or --sampling.batch-size"
    assert capsys.readouterr().err == f"erasediff: out of memory {said}\n"
