"""`erasediff plan` as a user meets it: without weights and without data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from erasediff.launch.cli import main

GPUS = ["--gpus", "2", "--gpu-type", "a100-80gb"]


@pytest.fixture
def run_toml(base_model: Path, tmp_path: Path) -> Path:
    """A scrub whose model has no weights and whose data is nowhere."""
    model = tmp_path / "model"
    shutil.copytree(base_model, model, ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "run.toml"
    path.write_text(
        f'forget = "nowhere/forget"\nremain = "nowhere/remain"\noutput = "{tmp_path}/run"\n'
        f'[model]\npath = "{model}"\n[train]\ntrain_batch_size = 6\n'
    )
    return path


def asked(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    assert main(["plan", *words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_plan_of_configuration_alone(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, str(run_toml), *GPUS)
    assert found["samples_per_rank"] == 3
    assert found["as_set"]["fits"] is True
    assert [setting["zero_stage"] for setting in found["by_stage"]] == [1, 2, 3]
    assert found["best"]["zero_stage"] == 2
    memory, num_trained = found["as_set"]["memory"], found["num_trained"]
    # a working copy in fp32 on each of the two, halves of θ and of AdamW's two moments
    assert memory["weights"] == pytest.approx(4 * num_trained, rel=0.01)
    assert memory["master θ"] == pytest.approx(2 * num_trained, rel=0.01)
    assert memory["moments"] == pytest.approx(4 * num_trained, rel=0.01)
    assert found["as_set"]["peak_bytes"] == sum(memory.values())
    wire = found["as_set"]["wire"]
    assert wire["reductions"] + wire["publications"] == pytest.approx(6 * num_trained, rel=0.01)
    assert found["as_set"]["run_seconds"] == pytest.approx(100 * found["as_set"]["seconds"]["total"])
    assert not (run_toml.parent / "run").exists()


def test_options_beat_the_file_and_change_the_plan(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = asked(capsys, str(run_toml), *GPUS)["as_set"]
    options = ["--method.barrier", "value", "--optimizer.name", "sgd", "--engine.forward-batch-size", "1"]
    found = asked(capsys, str(run_toml), *GPUS, *options)
    assert found["cost"] == {
        "gradients": 2,
        "forwards": 2,
        "exact_gradients": 0,
        "exact_forwards": 0,
        "publications": 2,
        "forward_gathers": 1,
    }
    assert found["as_set"]["num_micro_batches"] == 3
    assert "moments" not in found["as_set"]["memory"]
    assert found["as_set"]["memory"]["activations"] < plain["memory"]["activations"]
    assert found["as_set"]["wire"]["publications"] == 2 * plain["wire"]["publications"]


READINGS = {
    "K = 0": ["--method.num-inner-steps", "0"],
    "K = 1, value": ["--method.barrier", "value"],
    "K = 1, first_order": ["--method.gradient-of-g", "first_order"],
}


@pytest.mark.parametrize("precision", ["fp32", "bf16-autocast"])
def test_readings_are_what_a_plan_of_each_says(
    run_toml: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    words = [str(run_toml), *GPUS, "--engine.precision", precision]
    # one that is none of them
    options = ["--method.barrier", "value", "--method.num-inner-steps", "2"]
    found = asked(capsys, *words, *options)
    assert [*found["readings"]] == [*READINGS, "as set"]
    assert found["readings"]["as set"] == found["by_stage"]
    for name, its_options in READINGS.items():
        alone = asked(capsys, *words, *its_options)
        assert found["readings"][name] == alone["by_stage"]
        assert [setting["zero_stage"] for setting in alone["by_stage"]] == [1, 2, 3]
        assert [*alone["readings"]] == [*READINGS]


def test_readings_send_what_algorithm_1_has_them_send(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On two ranks half a vector of 4 bytes a weight for each gradient and for each publication of weights."""
    found = asked(capsys, str(run_toml), *GPUS)
    half = 2 * found["num_trained"]
    # ∇L_r and ∇L_f(θ), ∇L_f(φ¹); θ_{t+1}, φ¹
    vectors = {"K = 0": 2 + 1, "K = 1, value": 2 + 2, "K = 1, first_order": 3 + 2}
    for name, settings in found["readings"].items():
        wire = settings[1]["wire"]
        assert wire["total"] - wire["packet"] == pytest.approx(vectors[name] * half, rel=0.01)
    assert main(["plan", str(run_toml), *GPUS]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("an iteration of"))
    columns = [f"ZeRO {stage} {unit}" for unit in ("GB", "s") for stage in (1, 2, 3)]
    assert lines[head].split("forward passes")[1].split() == " ".join(columns).split()
    for line, (name, settings) in zip(lines[head + 1 :], found["readings"].items(), strict=False):
        numbers = [settings[0]["cost"]["gradients"], settings[0]["cost"]["forwards"]]
        cells = [f"{setting['wire']['total'] / 1e9:.2f}" for setting in settings]
        cells += [f"{setting['seconds']['total']:.3f}" for setting in settings]
        label = f"{name}, as set" if name == "K = 0" else name
        assert line.split() == [*label.split(), *map(str, numbers), *cells]


def test_readings_that_the_settings_refuse_are_left_out(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [*asked(capsys, str(run_toml), *GPUS, "--engine.precision", "bf16")["readings"]] == ["K = 0"]
    rounded = asked(capsys, str(run_toml), *GPUS, "--engine.reduce-dtype", "bf16")
    assert [*rounded["readings"]] == ["K = 0", "K = 1, value"]
    assert asked(capsys, str(run_toml), *GPUS, "--method.name", "finetune")["readings"] == {}
    assert main(["plan", str(run_toml), *GPUS, "--method.name", "finetune"]) == 0
    assert "an iteration of" not in capsys.readouterr().out


def test_what_a_method_prepares_takes_time(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Blindspot's proxy takes 200 gradients, as many as 100 steps of two."""
    found = asked(capsys, str(run_toml), *GPUS, "--method.name", "blindspot")["as_set"]
    assert found["preparing_seconds"] == pytest.approx(100 * found["seconds"]["total"])
    assert found["run_seconds"] == pytest.approx(200 * found["seconds"]["total"])
    assert main(["plan", str(run_toml), *GPUS, "--method.name", "blindspot"]) == 0
    assert "200 gradients before" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "k"), [([], 0), (["--method.barrier", "value", "--method.num-inner-steps", "3"], 3)])
def test_an_inner_loop_that_is_skipped_has_no_steps(
    run_toml: Path, capsys: pytest.CaptureFixture[str], words: list[str], k: int
) -> None:
    assert main(["plan", str(run_toml), *GPUS, *words]) == 0
    assert f"erasediff, K = {k}: an iteration is" in capsys.readouterr().out


def test_a_share_of_the_peak_is_assumed_and_told(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow, fast = (asked(capsys, str(run_toml), *GPUS, "--mfu", mfu) for mfu in ("0.2", "0.4"))
    assert slow["as_set"]["seconds"]["passes"] == pytest.approx(2 * fast["as_set"]["seconds"]["passes"])
    assert main(["plan", str(run_toml), *GPUS, "--mfu", "0.4"]) == 0
    said = capsys.readouterr().out
    assert "seconds at 40% of peak" in said
    for line in ("weights", "master θ", "moments", "activations", "reserve", "at the peak", "as set: fits", "best: "):
        assert line in said


def test_what_fits_nowhere_leaves_with_1_and_what_fits_otherwise_with_0(
    run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_toml.parent / "model" / "unet" / "config.json"
    large = json.loads(config.read_text()) | {"block_out_channels": [8192, 8192]}
    config.write_text(json.dumps(large))
    assert main(["plan", str(run_toml), "--gpus", "1", "--gpu-type", "a100-80gb"]) == 1
    said = capsys.readouterr()
    assert "fits in 80.00" in said.out
    assert "NO" in said.out
    assert said.err.startswith("erasediff: it fits in no way on 1 × a100-80gb")
    sharded = ["--engine.zero-stage", "2", "--engine.precision", "bf16", "--optimizer.name", "sgd"]
    found = asked(capsys, str(run_toml), "--gpus", "6", "--gpu-type", "h200-141gb", *sharded)
    assert found["best"]["fits"] is True
    assert found["best"]["peak_bytes"] > 20e9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "0", "--gpu-type", "cpu"], "--gpus 0: at least 1"),
        (["--gpus", "2", "--gpu-type", "cpu", "--gpus-per-node", "0"], "--gpus-per-node 0: at least 1"),
        (["--gpus", "2", "--gpu-type", "cpu", "--mfu", "2"], "--mfu 2: a share of the peak"),
        (["--gpus", "7", "--gpu-type", "cpu"], "train.train_batch_size = 6 has no sample for each"),
        (["--gpus", "2", "--gpu-type", "v100"], "v100"),
        (["--gpu-type", "cpu"], "gpus"),
        ([*GPUS, "--train.layers", "nothing"], "train.layers: 'nothing' names none"),
        ([*GPUS, "--engine.precison", "bf16"], "precison"),
        ([*GPUS, "--engine.activation-checkpointing", "all", "--model.null-class", "77"], "is no class of the model"),
    ],
)
def test_mistakes_are_one_line(
    run_toml: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(run_toml), *words]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("erasediff: ")
    assert "\n" not in said
    assert message in said


def test_a_missing_option_is_no_reason_to_call_the_runs_own_unknown(
    run_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(run_toml), "--gpus", "2", "--engine.precision", "bf16"]) == 2
    said = capsys.readouterr().err
    assert "--gpu-type" in said
    assert "--engine.precision" not in said
