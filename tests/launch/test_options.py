"""Options from files and the command line, and what is wrong with them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from erasediff.launch.cli import main
from erasediff.launch.options import read_settings
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import ScrubConfig
from mistakes import fails

REQUIRED = ["--model.path", "m", "--forget", "f", "--remain", "r", "--output", "o"]


def test_scrub_from_a_file_and_options_that_beat_it(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scrub", str(run_toml), "--train.max-train-steps", "1", "--method.eta", "0.25"]) == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    resolved = (tmp_path / "run" / "config.toml").read_text()
    assert "eta = 0.25" in resolved
    assert "max_train_steps = 1" in resolved
    # the resolved file is a run of its own: the same command from it finds that run finished
    assert main(["scrub", str(tmp_path / "run" / "config.toml")]) == 0
    assert "model:" in capsys.readouterr().out


def test_another_method_by_option(run_toml: Path, tmp_path: Path) -> None:
    assert main(["scrub", str(run_toml), "--method.name", "moo", "--method.weight", "0.5"]) == 0
    assert 'name = "moo"' in (tmp_path / "run" / "config.toml").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["lambda_t"] for line in lines] == [0.5, 0.5]


def test_another_method_keeps_what_the_file_says_of_the_target(
    run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "[method]\nname = 'erasediff'\ntarget = 'rl'\nanchor = 4\nteacher = 'frozen'\neta = 0.9\n"
    run_toml.write_text(f"{run_toml.read_text()}\n{given}")

    def method(*words: str) -> dict[str, object]:
        assert main(["scrub", str(run_toml), *words, "--dry-run"]) == 0
        told = capsys.readouterr().out
        return tomllib.loads(told[told.index("[method]") : told.index("[train]")])["method"]

    about = {"target": "rl", "anchor": 4, "teacher": "frozen"}
    assert method().items() >= (about | {"eta": 0.9}).items()
    assert method("--method.name", "moo").items() >= about.items()
    # its own η, which is another
    assert method("--method.name", "meta_erasediff").items() >= (about | {"eta": 0.05}).items()
    assert method("--method.name", "moo", "--method.anchor", "7")["anchor"] == 7
    # of itself it trains towards another target
    assert method("--method.name", "esd")["target"] == "negative_guidance"
    assert method("--method.name", "finetune") == {"name": "finetune"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[optimizer]\nlearning_rat = 1", "unknown key optimizer.learning_rat; did you mean learning_rate?"),
        ("[method]\nname = 'erasediff'\neeta = 1", "unknown key method.eeta; did you mean eta?"),
        ("[method]\nname = 'moo'\neta = 1.0", "unknown key method.eta; known here: name, target"),
        ("[method]\nname = 'moo'\nweight = 'x'", "method.weight = 'x': input should be a valid number"),
        ("[method]\nname = ['moo']", "method.name = ['moo']; known: blindspot, erasediff, esd, finetune"),
        ("[method]\nname = 'erasedif'", "method.name = 'erasedif'; known: blindspot, erasediff, esd, finetune"),
        ("[optimizer]\nlearning_rate = 'fast'", "optimizer.learning_rate = 'fast': input should be a valid number"),
        ("[optimizer]\nlr_warmup_steps = '7'", "optimizer.lr_warmup_steps = '7': input should be a valid integer"),
        ("[optimizer]\nlr_warmup_steps = true", "optimizer.lr_warmup_steps = True: input should be a valid integer"),
        ("[optimizer]\nname = 'lion'", "optimizer.name = 'lion': input should be 'adamw', 'adam' or 'sgd'"),
        ("[optimizer", "is not TOML"),
    ],
)
def test_mistakes_in_the_file_name_the_key(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    run_toml.write_text(run_toml.read_text() + line)
    said = fails(["scrub", str(run_toml)], capsys)
    assert str(run_toml) in said
    assert message in said
    assert not (tmp_path / "run").exists()


def test_settings_that_exclude_each_other_in_the_file(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_toml.write_text(run_toml.read_text() + "attention = 'xformers'\n")
    assert "leave it 'native'" in fails(["scrub", str(run_toml)], capsys)


def test_required_options_may_be_left_to_the_command_line(
    run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in run_toml.read_text().splitlines() if not line.startswith("output")]
    run_toml.write_text("\n".join(lines))
    assert "--output STR" in fails(["scrub", str(run_toml)], capsys)
    assert main(["scrub", str(run_toml), "--output", str(tmp_path / "elsewhere")]) == 0
    model = tmp_path / "elsewhere" / "model"
    assert model.exists() and capsys.readouterr().out.endswith(f"model: {model}\n")
    assert main(["scrub", str(run_toml), "--output", str(tmp_path / "elsewhere")]) == 0
    assert capsys.readouterr().out == f"model: {model}, finished before: nothing was done again\n"


def test_a_section_in_the_file_keeps_the_command_s_own_defaults(tmp_path: Path) -> None:
    from erasediff.launch.options import read_settings
    from erasediff.trainer.config import PretrainConfig

    path = tmp_path / "pretrain.toml"
    path.write_text("data = 'd'\noutput = 'o'\n[train]\nseed = 1\n[optimizer]\nlearning_rate = 1e-3\n")
    config = read_settings(PretrainConfig, [str(path)], prog="pretrain")
    assert (config.train.seed, config.train.max_train_steps) == (1, 900)
    assert (config.optimizer.learning_rate, config.optimizer.ema_decay) == (1e-3, "auto")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scrub", *REQUIRED, "--train.seed", "abc"], "Error parsing --train.seed: invalid literal for int()"),
        (["scrub", "--outputt", "o"], "--outputt"),
        (["scrub", *REQUIRED, "--engine.num-threads", "0"], "engine.num_threads = 0: at least 1"),
        (["scrub", *REQUIRED, "--engine.step-timeout-seconds", "nan"], "engine.step_timeout_seconds = nan: a finite"),
        (["scrub", *REQUIRED, "--engine.step-timeout-seconds", "inf"], "engine.step_timeout_seconds = inf: a finite"),
        (["scrub", *REQUIRED, "--train.lerning-rate", "1"], "; did you mean --optimizer.learning-rate?; see"),
        # several sections have a seed
        (
            ["evaluate", "--run", "r", "--data", "d", "--judge.sampling.sed", "1"],
            "; did you mean --judge.sampling.seed?; see",
        ),
        (["erase", "--request", "r", "--model", "m", "--output", "o", "--train.sed", "1"], "mean --train.seed?; see"),
        # no section: all of them
        (
            ["erase", "--request", "r", "--output", "o", "--learning-rate", "1"],
            "; did you mean --optimizer.learning-rate or --judge.relearning.learning-rate or --judge.",
        ),
        (["scrub", *REQUIRED, "--method.etta=1"], "; did you mean --method.eta?; see"),
        (["scrub", *REQUIRED, "--optimizer.lr=1"], "Unrecognized options: --optimizer.lr=1; see"),
        (["shards", "split", "a", "b", "--forget-labl", "3"], "--forget-labl, 3; did you mean --forget-label?; see"),
        # an option of another command
        (["pretrain", "--data", "d", "--output", "o", "--method.name", "moo"], "Unrecognized options: --method.name"),
        (["evaluate", "--run", "r", "--data", "d", "--method.name=moo"], "Unrecognized options: --method.name"),
        (
            ["evaluate", "--run", "r", "--data", "d", "--judge.thresholds", "p_psi < 1"],
            "thresholds: 'p_psi < 1' is none",
        ),
        (["shards", "build", "digits"], "OUTPUT"),
        (["demo", "--forget-label", "three"], "Error parsing --forget-label"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line_too(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    said = fails(words, capsys)
    assert message in said
    assert "--help" in said


@pytest.mark.parametrize(
    "words", [["--method.lambda-cap", "none"], ["--method.lambda-cap=none"], ["--method.lambda-cap", "None"]]
)
def test_none_is_written_as_in_a_file(words: list[str]) -> None:
    required = ["--model.path", "m", "--forget", "f", "--remain", "r", "--output", "o"]
    settings = read_settings(ScrubConfig, [*required, *words], prog="erasediff scrub")
    assert isinstance(settings.method, EraseDiffConfig) and settings.method.lambda_cap is None


def test_a_method_that_is_no_section_is_no_other_method(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_toml.write_text("method = 'moo'\n" + run_toml.read_text().replace("[method]", "[engine]", 1))
    assert "method = 'moo': a section with a name" in fails(["scrub", str(run_toml)], capsys)
