"""What a run computes and publishes, done again by hand with diffusers alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from erasediff.shards import Dataset, Stream
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig, TrainConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.models.families import load_model
from erasediff.trainer.objectives.diffusion import DiffusionBatch, DiffusionObjective
from erasediff.trainer.ranks import collectives
from erasediff.trainer.run.loop import Loop
from erasediff.trainer.run.saving import usable
from erasediff.trainer.run.slices import RankSlices
from erasediff.trainer.scrubbing import run_scrub
from safetensors.torch import load_file
from tiny import NULL_CLASS, tiny_config
from torch import Tensor, nn

CPU = torch.device("cpu")
REMAINING = [label for label in range(10) if label != 3]


def weights(pipeline: Path) -> dict[str, Tensor]:
    return load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors")


def plain_unet(pipeline: Path) -> UNet2DModel:
    unet = UNet2DModel.from_pretrained(pipeline / "unet")
    assert isinstance(unet, UNet2DModel)
    return unet


@torch.no_grad()
def predictions(unet: UNet2DModel, batch: DiffusionBatch, labels: Tensor) -> Tensor:
    return unet(batch.noised.x_t, batch.noised.timesteps, class_labels=labels).sample


def test_each_samples_target_is_the_prediction_under_its_own_other_class(digits: Path, base_model: Path) -> None:
    model = load_model(ModelConfig(path=str(base_model), null_class=NULL_CLASS))
    objective = DiffusionObjective(
        model, CPU, seed=3, label_drop=0.0, method=EraseDiffConfig(), others=REMAINING, forward_batch_size=5
    )
    engine = EngineConfig(device="cpu")
    sharded = ShardedModel(model.module, engine, OptimizerConfig(), collectives.set_up(engine), max_train_steps=1)
    given = Stream(Dataset.open(digits / "split" / "forget"), seed=0, batch_size=12).batch(0)
    unet = plain_unet(base_model)
    others: list[int] = []
    for batch in objective.with_forget_targets(sharded, objective.forget_batches(given)):
        assert batch.target is not None
        # each sample alone, under its own c_m
        c_m_B = batch.prepared.told["class_labels"]
        rows = zip(batch.noised.x_t, batch.noised.timesteps, c_m_B, strict=True)
        with torch.no_grad():
            expected = torch.cat([unet(x_t[None], t, class_labels=c_m[None]).sample for x_t, t, c_m in rows])
        assert torch.allclose(batch.target, expected, atol=1e-6)
        # one class for all would be seen
        assert (expected - predictions(unet, batch, torch.zeros_like(c_m_B))).abs().max() > 1e-3
        others += c_m_B.tolist()
    assert len(set(others)) > 4


def test_the_first_steps_losses_are_those_of_the_defaults(digits: Path, base_model: Path, tmp_path: Path) -> None:
    """One sample in ten of D_r without its class, c_m among the remaining classes: what a run logs, by hand."""
    size = 200
    train = TrainConfig(max_train_steps=1, train_batch_size=size)
    config = tiny_config(digits, base_model, tmp_path / "run", train=train)
    run_scrub(config)
    (logged,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    model = load_model(ModelConfig(path=str(base_model), null_class=NULL_CLASS))
    by_hand = DiffusionObjective(model, CPU, seed=0, label_drop=0.1, method=EraseDiffConfig(), others=REMAINING)
    forget, remain = (Stream(Dataset.open(path), seed=0, batch_size=size) for path in (config.forget, config.remain))
    (batch_f,), (batch_r,) = by_hand.forget_batches(forget.batch(0)), by_hand.remain_batches(remain.batch(0))
    assert batch_r.target is not None
    c_m_B = batch_f.prepared.told["class_labels"]
    c_f_B, c_r_B = (batch.noised.told["class_labels"] for batch in (batch_f, batch_r))
    assert set(c_m_B.tolist()) == set(REMAINING)
    assert (c_f_B == 3).all()
    assert abs((c_r_B == NULL_CLASS).float().mean() - 0.1) < 0.05

    unet = plain_unet(base_model)
    target = predictions(unet, batch_f, c_m_B)
    loss_f = (target - predictions(unet, batch_f, c_f_B)).square().mean()
    loss_r = (batch_r.target - predictions(unet, batch_r, c_r_B)).square().mean()
    assert logged["loss_f"] == pytest.approx(float(loss_f), rel=1e-5)
    assert logged["loss_r"] == pytest.approx(float(loss_r), rel=1e-6)


def test_the_average_is_published_in_place_of_the_weights(digits: Path, base_model: Path, tmp_path: Path) -> None:
    last: dict[str, Tensor] = {}
    names = list(weights(base_model))
    average = EMAModel([nn.Parameter(weights(base_model)[name]) for name in names], decay=0.3)

    def follow(step: int, model: ShardedModel) -> None:
        last.update(model.gather(model.theta))
        if step:
            average.step([nn.Parameter(last[name]) for name in names])

    optimizer = OptimizerConfig(learning_rate=1e-2, ema_decay=0.3)
    run_scrub(tiny_config(digits, base_model, tmp_path / "run", optimizer=optimizer), watch=follow)
    published = weights(tmp_path / "run" / "model")
    for name, expected in zip(names, average.shadow_params, strict=True):
        assert torch.allclose(published[name], expected, rtol=1e-5, atol=1e-7), name
    assert any((published[name] - last[name]).abs().max() > 1e-3 for name in names)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_whatever_ends_a_run_of_one_process_its_checkpoint_is_written_first(
    digits: Path, base_model: Path, tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's next call goes on from it."""
    write = RankSlices.write

    def write_slowly(slices: RankSlices, path: Path) -> Any:
        time.sleep(0.5)
        return write(slices, path)

    def end(step: int, model: ShardedModel) -> None:
        if step == 3:
            raise error

    train = TrainConfig(max_train_steps=4, train_batch_size=4, checkpointing_steps=2)
    config = tiny_config(digits, base_model, tmp_path / "run", train=train)
    monkeypatch.setattr(RankSlices, "write", write_slowly)
    with pytest.raises(error):
        run_scrub(config, watch=end)
    assert usable(tmp_path / "run", before=2) == [tmp_path / "run" / "attempt-0001" / "checkpoint-000002"]


def test_a_frozen_teacher_outlives_a_kill(digits: Path, base_model: Path, tmp_path: Path) -> None:
    method = EraseDiffConfig(teacher="frozen")
    train = TrainConfig(max_train_steps=4, train_batch_size=4, checkpointing_steps=2)
    base = weights(base_model)

    def config(name: str) -> Any:
        optimizer = OptimizerConfig(learning_rate=1e-2)
        return tiny_config(digits, base_model, tmp_path / name, method=method, train=train, optimizer=optimizer)

    run_scrub(config("whole"))

    class Killed(Exception):
        pass

    def kill(step: int, model: ShardedModel) -> None:
        if step == 3:
            raise Killed

    begins: list[int] = []

    def look(step: int, model: ShardedModel) -> None:
        begins.append(step)
        assert model.original is not None
        frozen = model.gather(model.original)
        assert all(torch.equal(frozen[name], base[name]) for name in frozen)

    with pytest.raises(Killed):
        run_scrub(config("killed"), watch=kill)
    run_scrub(config("killed"), watch=look)
    assert begins[0] == 2
    whole, continued = (weights(tmp_path / name / "model") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


def test_bad_samples_are_noted_as_soon_as_they_are_told() -> None:
    """A kill may follow."""
    told, noted, said = [["a: cannot be decoded"], []], [], []
    bad = SimpleNamespace(tell=lambda: told.pop(0), keys=["a"])
    loop: Any = SimpleNamespace(_bad_samples=bad, _attempt=SimpleNamespace(note_bad_samples=noted.append))
    progress: Any = SimpleNamespace(say=said.append)
    assert not Loop._meet(loop, progress)  # pyright: ignore[reportPrivateUsage]
    assert noted == [["a"]] and said == ["a: cannot be decoded; left out"]
    assert not Loop._meet(loop, progress)  # pyright: ignore[reportPrivateUsage]
    assert len(noted) == len(said) == 1
