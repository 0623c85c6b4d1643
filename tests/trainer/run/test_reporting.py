"""What goes elsewhere while a run goes on: figures to a service, samples to files. The result is the same without."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from erasediff.trainer.config import (
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    SamplingConfig,
    ScrubConfig,
    TrainConfig,
    UNetConfig,
)
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.pictures import to_grid
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.run.reporting import TensorBoard
from erasediff.trainer.scrubbing import check, run_scrub
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_config

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def with_options(config: ScrubConfig, **train: object) -> ScrubConfig:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def watched(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ScrubConfig:
    """Five steps, sampled every second one, with a checkpoint that a second start goes on from."""
    train = TrainConfig(max_train_steps=5, train_batch_size=4, checkpointing_steps=3)
    folder = tmp_path_factory.mktemp("watched") / "run"
    config = tiny_config(digits, base_model, folder, train=train, optimizer=OptimizerConfig(learning_rate=1e-2))
    config = with_options(config, sample_every=5, report_to=("tensorboard",))
    run_scrub(config)
    shutil.rmtree(folder / "model")
    config = with_options(config, sample_every=2)
    run_scrub(config)
    return config


def test_a_service_gets_each_steps_figures_once(watched: ScrubConfig) -> None:
    run = Path(watched.output)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = EventAccumulator(str(run / "tensorboard")).Reload()
    for name in ("loss_r", "lambda_t", "learning_rate", "seconds"):
        events = [(event.step, event.value) for event in found.Scalars(name)]
        assert events == [(line["step"], pytest.approx(line[name])) for line in lines], name
    # the first start drew at 0 and 5, of which the second, from step 3 on, took the latter back and drew at 4
    assert [event.step for event in found.Images("samples")] == [0, 4]


def test_the_files_hold_what_the_model_draws(watched: ScrubConfig, digits: Path) -> None:
    run = Path(watched.output)
    assert sorted(path.name for path in (run / "samples").iterdir()) == [f"step-00000{step}.png" for step in (0, 4, 5)]
    model = load_model(ModelConfig(str(run / "model"), null_class=10))
    conditions = [label for label in (3, 0, 1, 2, 4) for _ in range(4)]
    images = sample(model, conditions, SamplingConfig(), device=torch.device("cpu"))
    expected = np.asarray(to_grid(images, 4, 8))
    # written after the last step, by the first start, beside the rows' names
    drawn = np.asarray(Image.open(run / "samples" / "step-000005.png").convert("L"))
    assert drawn.shape[0] == expected.shape[0] and drawn.shape[1] > expected.shape[1]
    assert np.abs(drawn[:, -expected.shape[1] :].astype(int) - expected).max() <= 1


def test_pictures_on_the_way_take_no_more_memory_than_a_step(
    watched: ScrubConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn in parts of engine.forward_batch_size, doubled by guidance, they are the same; so are few noise levels."""
    sizes, few = [], dataclasses.replace(watched.engine, forward_batch_size=3)
    forward = UNet2DModel.forward

    def noted(self: Any, x: torch.Tensor, *more: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            sizes.append(len(x))
        return forward(self, x, *more, **named)

    monkeypatch.setattr(UNet2DModel, "forward", noted)
    config = dataclasses.replace(with_options(watched, report_to=()), output=str(tmp_path / "run"), engine=few)
    run_scrub(config)
    assert max(sizes) == 6
    one, other = (Path(run) / "samples" / "step-000000.png" for run in (tmp_path / "run", watched.output))
    pictures = [np.asarray(Image.open(path).convert("L")).astype(int) for path in (one, other)]
    # other batches round otherwise, over 25 steps
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.1


def test_a_model_of_few_noise_levels_is_watched(digits: Path, tmp_path: Path) -> None:
    unet = UNetConfig(block_out_channels=(8, 8), norm_num_groups=4, num_train_timesteps=10)
    train = TrainConfig(max_train_steps=2, train_batch_size=4, sample_every=2)
    engine = EngineConfig(device="cpu")
    run_pretrain(PretrainConfig(str(digits / "data"), str(tmp_path / "run"), train=train, unet=unet, engine=engine))
    assert (tmp_path / "run" / "samples" / "step-000002.png").exists()


def test_watching_changes_nothing(watched: ScrubConfig, tmp_path: Path) -> None:
    plain = dataclasses.replace(with_options(watched, sample_every=0, report_to=()), output=str(tmp_path / "plain"))
    one, other = (load_file(folder / WEIGHTS) for folder in (run_scrub(plain), Path(watched.output) / "model"))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is there")
def test_a_service_whose_package_is_missing_is_refused(digits: Path, base_model: Path, tmp_path: Path) -> None:
    config = with_options(tiny_config(digits, base_model, tmp_path / "run"), report_to=("wandb",))
    with pytest.raises(ConfigError, match=r"train.report_to = 'wandb': its package is missing: pip install 'erasediff"):
        check(config)
    assert not (tmp_path / "run").exists()


def test_wandb_gets_them_too(digits: Path, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: what would be sent lies in the run's folder."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = with_options(tiny_config(digits, base_model, tmp_path / "run"), report_to=("wandb",), sample_every=3)
    run_scrub(config)
    (sent,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert len(list((sent / "files" / "media" / "images").glob("samples_*.png"))) == 2
    # each of the three steps, beside samples before and after
    assert next(sent.glob("*.wandb")).read_bytes().count(b"loss_r") >= 3


def test_a_service_that_fails_is_told_no_more_and_the_run_goes_on(
    digits: Path, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = with_options(tiny_config(digits, base_model, tmp_path / "run"), report_to=("tensorboard",))
    with monkeypatch.context() as patch:
        patch.setattr(TensorBoard, "log", lambda *_: {}["the disk is full"])
        run_scrub(config)
    said = [line for line in capfd.readouterr().err.splitlines() if "TensorBoard" in line]
    assert said == ["erasediff: TensorBoard gets no more: 'the disk is full'"]
    assert (tmp_path / "run" / "model").exists()
    monkeypatch.setattr(TensorBoard, "__init__", lambda *_: {}["no key"])
    with pytest.raises(ConfigError, match=r"train.report_to = 'tensorboard': 'no key'"):
        run_scrub(dataclasses.replace(config, output=str(tmp_path / "third")))
