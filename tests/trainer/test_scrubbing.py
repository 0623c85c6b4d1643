"""A scrub from beginning to end: the same again, continued, refused, planned."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from erasediff.launch.cli import main
from erasediff.trainer import EraseDiffConfig, FinetuneConfig, MOOConfig
from erasediff.trainer.config import (
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    ScrubConfig,
    TrainConfig,
)
from erasediff.trainer.config.toml import decode, dump_toml
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError, TrainingError
from erasediff.trainer.models.given import save_once
from erasediff.trainer.run.reading import Reader
from erasediff.trainer.scrubbing import plan, run_scrub, scrub
from safetensors.torch import load_file, save_file
from tiny import TIMING, tiny_config


def weights(pipeline: Path) -> dict[str, torch.Tensor]:
    return load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors")


def metrics(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def finished(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder."""
    config = tiny_config(digits, base_model, tmp_path_factory.mktemp("runs") / "run")
    run_scrub(config)
    return Path(config.output)


@pytest.mark.parametrize("method", [EraseDiffConfig(target="noise", barrier="value"), MOOConfig(), FinetuneConfig()])
def test_the_same_command_gives_the_same_weights_and_metrics(
    digits: Path, base_model: Path, tmp_path: Path, method: MethodConfig
) -> None:
    began = time.perf_counter()
    for name in ("one", "two"):
        run_scrub(tiny_config(digits, base_model, tmp_path / name, method=method))
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert min(seconds) > 0 and sum(seconds) < time.perf_counter() - began
    assert_same_weights(tmp_path / "one" / "model", tmp_path / "two" / "model")
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")


def test_a_steps_log_says_what_it_took_itself(
    digits: Path, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for its samples too, of the last step too, and nothing that comes between two."""
    read, moments = Reader.next, []

    def slowly(reader: Reader) -> Any:
        time.sleep(0.3 if len(moments) == 3 else 0)  # of the third step, the last
        return read(reader)

    def watch(step: int, _: Any) -> None:
        moments.append(time.perf_counter())
        time.sleep(0.3 if step in (1, 2) else 0)

    monkeypatch.setattr(Reader, "next", slowly)
    optimizer = OptimizerConfig(lr_scheduler="linear", learning_rate=0.3e-3)
    run_scrub(tiny_config(digits, base_model, tmp_path / "run", optimizer=optimizer), watch=watch)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[2]["seconds"] >= 0.3 and min(line["seconds"] for line in lines) > 0
    assert sum(line["seconds"] for line in lines) < moments[3] - moments[0] - 0.6 + 0.001
    assert [line["learning_rate"] for line in lines] == pytest.approx([3e-4, 2e-4, 1e-4])
    for line in lines:  # 4 of D_r and 4 of D_f
        assert line["samples_per_second"] == pytest.approx(8 / line["seconds"], abs=0.06, rel=1e-2)
        assert 1e8 < line["peak_bytes"] < 1e11
    assert json.loads((tmp_path / "run" / "attempt-0001" / "attempt.json").read_text())["preparing_seconds"] >= 0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_run_continues_to_the_same_result(
    digits: Path, base_model: Path, tmp_path: Path, optimizer: str, capfd: pytest.CaptureFixture[str]
) -> None:
    train = TrainConfig(max_train_steps=5, train_batch_size=4, checkpointing_steps=2, checkpoints_total_limit=1)
    settings = OptimizerConfig(
        name=optimizer,  # pyright: ignore[reportArgumentType]
        momentum=0.9,
        ema_decay=0.5,
        lr_scheduler="cosine",
    )

    def config(name: str):
        return tiny_config(digits, base_model, tmp_path / name, train=train, optimizer=settings)

    run_scrub(config("whole"))
    run_scrub(config("cut"))
    first = tmp_path / "cut" / "attempt-0001"
    assert [path.name for path in first.glob("checkpoint-*")] == ["checkpoint-000004"]
    # as if it had been killed while it wrote the line of its last step
    shutil.rmtree(tmp_path / "cut" / "model")
    with (first / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss')
    assert "continues" not in capfd.readouterr().err
    run_scrub(config("cut"))
    continued = "scrub: continues from attempt-0001/checkpoint-000004, 4 of 5 steps done, as attempt-0002"
    assert continued in capfd.readouterr().err
    assert_same_weights(tmp_path / "whole" / "model", tmp_path / "cut" / "model")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")
    assert len(metrics(tmp_path / "cut")) == 5


def test_a_finished_run_is_returned_and_another_is_refused(finished: Path, digits: Path, base_model: Path) -> None:
    config = tiny_config(digits, base_model, finished)
    changed = (finished / "model" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    assert run_scrub(config) == finished / "model"
    assert (finished / "model" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns == changed
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=7))
    with pytest.raises(ConfigError, match=r"holds another run: train.seed = 0 there, 7 here"):
        run_scrub(other)


def test_a_loaded_pipeline_goes_in_and_one_comes_out(digits: Path, base_model: Path, tmp_path: Path) -> None:
    pipeline = DDPMPipeline.from_pretrained(base_model)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    scrubbed = scrub(
        pipeline,
        forget=digits / "split" / "forget",
        remain=digits / "split" / "remain",
        output=tmp_path / "run",
        null_class=10,
        train=TrainConfig(max_train_steps=2, train_batch_size=4),
    )
    assert isinstance(scrubbed, DDPMPipeline)
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in scrubbed.unet.state_dict().items())


def test_a_pipeline_whose_settings_changed_is_another_one(tmp_path: Path, base_model: Path) -> None:
    pipeline = DDPMPipeline.from_pretrained(base_model)
    for _ in range(2):
        save_once(pipeline, tmp_path / "base")
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, prediction_type="v_prediction")
    with pytest.raises(ConfigError, match="holds another model than the one given: remove it, or choose another"):
        save_once(pipeline, tmp_path / "base")
    assert not (tmp_path / "base.partial").exists()


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 20 GiB", ""])
def test_memory_that_is_not_there_is_one_line(
    digits: Path,
    base_model: Path,
    tmp_path: Path,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(words) if words else MemoryError

    (tmp_path / "run.toml").write_text(dump_toml(tiny_config(digits, base_model, tmp_path / "run")))
    monkeypatch.setattr(ShardedModel, "gradient", refuse)
    assert main(["scrub", str(tmp_path / "run.toml")]) == 1
    said = capfd.readouterr().err
    assert f"erasediff: out of memory ({words or 'MemoryError'}): lower engine.forward_batch_size or" in said
    assert "Traceback" not in said


def test_a_nan_in_the_weights_stops_the_run_and_names_the_loss(digits: Path, base_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_model, base)
    broken = weights(base)
    broken["conv_out.bias"][0] = torch.nan
    save_file(broken, base / "unet" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"step 0: .* L_r is NaN, first in the gradient of conv_in\.weight"):
        run_scrub(tiny_config(digits, base, tmp_path / "run"))
    assert not (tmp_path / "run" / "model").exists()


def test_a_step_that_is_not_finite_can_be_skipped(digits: Path, base_model: Path, tmp_path: Path) -> None:
    """A learning rate that overflows fp32 at once: every later step is skipped and leaves θ as it was."""
    train = TrainConfig(max_train_steps=4, train_batch_size=4, non_finite="skip", descent_every=0)
    optimizer = OptimizerConfig(name="sgd", learning_rate=1e30)
    run_scrub(tiny_config(digits, base_model, tmp_path / "run", train=train, optimizer=optimizer))
    skipped = [line["skipped"] for line in metrics(tmp_path / "run")]
    assert skipped == [0, 1, 1, 1]


def test_inner_loop_settings_change_nothing_with_envelope_and_norm(
    digits: Path, base_model: Path, tmp_path: Path
) -> None:
    run_scrub(tiny_config(digits, base_model, tmp_path / "without"))
    method = EraseDiffConfig(inner_every=1, num_inner_steps=3, xi=0.1)
    run_scrub(tiny_config(digits, base_model, tmp_path / "with", method=method))
    assert_same_weights(tmp_path / "without" / "model", tmp_path / "with" / "model")
    assert all("g" in line for line in metrics(tmp_path / "with"))


def test_metrics_hold_the_algorithm(finished: Path) -> None:
    for line in metrics(finished):
        a_t, gg, gr = line["a_t"], line["dot_gg"], line["dot_gr"]
        assert a_t == pytest.approx(0.5 * gg, rel=1e-12)
        exact = max(0.0, (a_t - gr) / gg)
        assert line["lambda_t"] == pytest.approx(min(exact, 3.0), rel=1e-9)
        assert line["capped"] == (exact > 3.0)
        assert line["shortfall"] == pytest.approx(max(0.0, a_t - gr - line["lambda_t"] * gg), abs=1e-12)
    assert ["descent" in line for line in metrics(finished)] == [True, False, True]


def test_a_teacher_that_stays_frozen_differs_from_the_current_one(
    digits: Path, base_model: Path, tmp_path: Path
) -> None:
    for teacher in ("current", "frozen"):
        method = EraseDiffConfig(teacher=teacher)
        run_scrub(tiny_config(digits, base_model, tmp_path / teacher, method=method))
    first_lines = [metrics(tmp_path / teacher)[0] for teacher in ("current", "frozen")]
    assert first_lines[0] == first_lines[1], "at θ_0 they are the same model"
    assert metrics(tmp_path / "current")[2] != metrics(tmp_path / "frozen")[2]


def test_the_plan_says_what_would_happen_and_writes_nothing(digits: Path, base_model: Path, tmp_path: Path) -> None:
    said = plan(tiny_config(digits, base_model, tmp_path / "run")).describe()
    assert "183 samples of 3" in said
    assert "1,614 samples of 0, 1, 2, 4" in said
    assert "2 gradients and 1 forward pass without one, over batches of 4" in said
    assert "null class" not in said
    named = ModelConfig(str(base_model), classes=tuple("0123456789"))
    without = plan(dataclasses.replace(tiny_config(digits, base_model, tmp_path / "run"), model=named)).describe()
    assert "if class 10 stands for 'no class', set model.null_class = 10" in without
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_not_published(digits: Path, base_model: Path, tmp_path: Path) -> None:
    train = TrainConfig(max_train_steps=1, train_batch_size=4, descent_every=0)
    optimizer = OptimizerConfig(name="sgd", learning_rate=1e300)
    with pytest.raises(TrainingError, match=r"the last step left .* with NaN or Inf: no model is written"):
        run_scrub(tiny_config(digits, base_model, tmp_path / "run", train=train, optimizer=optimizer))
    assert not (tmp_path / "run" / "model").exists()


def test_logging_g_never_stops_a_run(digits: Path, base_model: Path, tmp_path: Path) -> None:
    """With envelope and norm φ^K is not in the update, so an inner step that overflows is not its matter."""
    method = EraseDiffConfig(inner_every=1, xi=1e30)
    run_scrub(tiny_config(digits, base_model, tmp_path / "run", method=method))
    assert [line["skipped"] for line in metrics(tmp_path / "run")] == [0, 0, 0]


def test_another_loaded_pipeline_does_not_pass_for_the_first(digits: Path, base_model: Path, tmp_path: Path) -> None:
    pipeline = DDPMPipeline.from_pretrained(base_model)
    options = {
        "forget": digits / "split" / "forget",
        "remain": digits / "split" / "remain",
        "output": tmp_path / "run",
        "null_class": 10,
        "train": TrainConfig(max_train_steps=1, train_batch_size=4),
    }
    scrub(pipeline, **options)
    shutil.rmtree(tmp_path / "run")
    with torch.no_grad():
        pipeline.unet.conv_out.bias += 1
    with pytest.raises(ConfigError, match="holds another model than the one given"):
        scrub(pipeline, **options)


@pytest.mark.parametrize(
    "settings",
    [
        EraseDiffConfig(lambda_cap=None, anchor=None),
        EraseDiffConfig(lambda_cap=2.0, anchor=4),
        MOOConfig(),
    ],
)
def test_the_recorded_config_is_the_config(settings: MethodConfig) -> None:
    config = ScrubConfig(
        model=ModelConfig(path="m", null_class=None),
        forget="f",
        remain="r",
        output="o",
        method=settings,
        optimizer=OptimizerConfig(max_grad_norm=None, ema_decay=0.5),
    )
    assert decode(ScrubConfig, tomllib.loads(dump_toml(config)), "here") == config
