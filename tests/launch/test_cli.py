"""The command line as a user meets it: help, and mistakes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from erasediff.launch.cli import COMMANDS, main
from erasediff.shards import Dataset
from mistakes import fails
from tiny import make_pipeline

TRAINING = ["pretrain", "scrub"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_never_imports_torch(command: str) -> None:
    code = (
        "import sys\nfrom erasediff.launch.cli import main\n"
        f"try: status = main({[*command.split(), '--help']!r})\nexcept SystemExit as leaving: status = leaving.code\n"
        "assert not status, status\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"erasediff {version('erasediff')}\n"


@pytest.mark.parametrize("command", TRAINING)
def test_help_has_defaults_and_groups(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    for expected in ("optimizer options", "--train.max-train-steps INT", "(default: 64)", "(required)"):
        assert expected in said


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scrub", str(run_toml), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "parameters" in said
    assert "183 samples of 3" in said
    assert "max_train_steps = 2" in said
    assert not (tmp_path / "run").exists()


def test_sets_that_may_be_swapped_and_batches_that_repeat_samples_are_pointed_out(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = ["scrub", str(run_toml), "--dry-run", "--output", str(tmp_path / "new")]
    assert main(dry) == 0
    told = capsys.readouterr().out
    assert "swapped?" not in told and "batch       " not in told
    sets = tomllib.loads(run_toml.read_text())
    assert main([*dry, "--forget", sets["remain"], "--remain", sets["forget"], "--train.train-batch-size", "200"]) == 0
    told = capsys.readouterr().out
    counts = [len(Dataset.open(sets[name])) for name in ("remain", "forget")]
    assert f"swapped?    forget = '{sets['remain']}' has {counts[0]:,} samples" in told
    assert f"train.train_batch_size = 200 is more than the {counts[1]:,} samples of remain" in told


def test_a_dry_run_refuses_what_the_run_would(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    dry = ["scrub", str(run_toml), "--dry-run", "--output"]
    assert "thesis.tex' is a file: name a folder" in fails([*dry, str(tmp_path / "thesis.tex")], capsys)
    assert "is not empty and holds no run" in fails([*dry, str(tmp_path)], capsys)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(run_toml.read_text() + "[method]\neta = 0.25\n")
    assert "holds another run: method.eta = 0.25 there" in fails([*dry, str(tmp_path / "run")], capsys)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "torch sees no CUDA device" in fails([*dry, str(tmp_path / "new"), "--engine.device", "cuda"], capsys)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.toml"]


def test_a_launcher_that_cannot_be(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["-n", "0"], "--num-processes 0: at least 1"),
        (["-n", "2", "--kill-delay-seconds", "-1"], "--kill-delay-seconds -1: at least 0"),
    ):
        assert message in fails(["launch", "local", *words, "scrub", str(run_toml)], capsys)


def test_missing_things(run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.toml: no such file" in fails(["scrub", str(tmp_path / "nowhere.toml")], capsys)
    assert "no such folder" in fails(["scrub", str(run_toml), "--model.path", str(tmp_path / "nowhere")], capsys)
    assert str(tmp_path / "nowhere") in fails(["scrub", str(run_toml), "--forget", str(tmp_path / "nowhere")], capsys)
    assert not (tmp_path / "run").exists()


def test_data_mistakes(digits: Path, run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = str(digits / "data"), str(tmp_path / "split")
    assert "forget-label" in fails(["shards", "split", data, out, "--forget-label", "42"], capsys)
    every = [word for label in range(10) for word in ("--forget-label", str(label))]
    fails(["shards", "split", data, out, *every], capsys)
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("cat/0.png", b"not a picture")
    assert "cat/0.png" in fails(["shards", "build", str(broken), str(tmp_path / "data")], capsys)
    overlap = ["scrub", str(run_toml), "--remain", data]
    assert "digit-" in fails(overlap, capsys)
    assert not any((tmp_path / name).exists() for name in ("split", "data", "run"))


def test_an_output_folder_with_something_else_in_it(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    assert "is not empty and holds no run" in fails(["scrub", str(run_toml)], capsys)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("scrubb", "no command 'scrubb'; did you mean scrub?"),
        ("launch statu runs", "no command 'launch statu'; did you mean launch status?"),
        ("shards", "no command 'shards'; there are shards build, shards split, shards verify, shards inspect"),
        ("obliterate it", "no command 'obliterate'; erasediff --help lists them"),
    ],
)
def test_an_unknown_command_is_held_against_the_known(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fails(words.split(), capsys) == said
    assert main([]) == 2


@pytest.mark.parametrize(
    "words",
    [
        "scrub --model.path m --forget f --remain nowhere --output o",
        "pretrain --data nowhere --output o",
        "evaluate --run {here} --data nowhere",
        "evaluate --run nowhere --data {data}",
        "compare compare.toml --data nowhere",
        "sample --model.path m --output nowhere.gif",
    ],
)
def test_what_is_not_there_is_missed_at_once(digits: Path, tmp_path: Path, words: str) -> None:
    """Before torch is imported, which takes seconds."""
    (tmp_path / "f").symlink_to(digits / "split" / "forget")
    (tmp_path / "compare.toml").write_text("output = 'o'\nforget = 'f'\nremain = 'f'\n[model]\npath = 'm'\n")
    code = (
        "import sys\nfrom erasediff.launch.cli import main\n"
        f"status = main({words.format(here=tmp_path, data=digits / 'data').split()!r})\n"
        "assert status == 2 and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nowhere" in done.stderr and len(done.stderr.splitlines()) == 1


def test_evaluate_refuses_what_is_no_finished_run(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(digits / "data")
    assert "no run folder" in fails(["evaluate", "--run", str(tmp_path), "--data", data], capsys)


def test_pretrain_sample_and_a_mistake_in_between(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "base"
    words = ["pretrain", "--data", str(digits / "data"), "--output", str(run), "--train.max-train-steps", "2"]
    words += ["--unet.block-out-channels", "8", "8", "--unet.norm-num-groups", "4"]
    assert "keeps 99% of the old weights" in fails([*words, "--optimizer.ema-decay", "0.995"], capsys)
    assert main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "steps       2 of 64 samples, 0.1 times through the data" in told and "ema_decay = 0.2236" in told
    assert "data        1,797 samples" in told
    assert not run.exists()
    assert main(words) == 0, "the default fits the length"
    assert capsys.readouterr().out.endswith(f"model: {run / 'model'}\n")
    assert main(words) == 0
    assert capsys.readouterr().out == f"model: {run / 'model'}, finished before: nothing was done again\n"
    assert main([*words, "--dry-run"]) == 0
    assert f"finished    already: {run / 'model'}" in capsys.readouterr().out
    assert "ema_decay = 0.2236" in (run / "config.toml").read_text(), "0.05 ** (1 / 2)"
    picture = tmp_path / "picture.png"
    sample = ["sample", "--model.path", str(run / "model"), "--model.null-class", "10", "--output", str(picture)]
    sample += ["--sampling.num-inference-steps", "2", "--num-images", "2", "--labels"]
    assert main([*sample, "3", "4"]) == 0
    assert picture.exists()
    assert "labels: 10 is no class" in fails([*sample, "10"], capsys)
    assert f"give '{run / 'model'}'" in fails(["sample", "--model.path", str(run), "--output", "o.png"], capsys)
    seed = ["--sampling.seed", str(1 << 63)]
    assert f"sampling.seed = {1 << 63}: less than 2^63" in fails([*sample, "3", *seed], capsys)
    if not torch.cuda.is_available():
        assert fails([*sample, "3", "--device", "cuda"], capsys).startswith("device = 'cuda', but torch sees no")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--unet.block-out-channels"], "unet.block_out_channels is empty"),
        (
            ["--unet.attention-blocks", "1", "--unet.attention-head-dim", "100"],
            "unet.attention_head_dim = 100: more than the 64 channels",
        ),
        (["--train.max-train-steps", "2", "--optimizer.ema-decay", "0.99"], "train longer, or set it to 'none'"),
    ],
)
def test_a_model_that_cannot_be_made(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    pretrain = ["pretrain", "--data", str(digits / "data"), "--output", str(tmp_path / "base")]
    assert message in fails([*pretrain, *words], capsys)
    assert not (tmp_path / "base").exists()


def test_pickled_weights_are_refused(run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_pipeline(tmp_path / "pickled")
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.move(weights, weights.with_suffix(".bin"))
    said = fails(["scrub", str(run_toml), "--model.path", str(base)], capsys)
    assert "diffusion_pytorch_model.bin is pickled" in said


def test_a_groups_help_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "--help"]) == 0
    said = capsys.readouterr().out
    assert "shards verify" in said and "scrub" not in said
