"""A scrub that destroys what it should keep ends with one line, and defaults that would do so are not the defaults."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from erasediff.launch.cli import main
from erasediff.trainer import EraseDiffConfig, MOOConfig
from erasediff.trainer.config import (
    EngineConfig,
    EraseConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    ScrubConfig,
    TrainConfig,
    UNetConfig,
)
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import TrainingError
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.run.attempts import history, read_metrics
from erasediff.trainer.run.checks import check_optimizer
from erasediff.trainer.run.damage import LossGuard
from erasediff.trainer.scrubbing import run_scrub
from tiny import tiny_config


def line(loss_r: float, skipped: float = 0.0) -> dict[str, float]:
    return {"loss_r": loss_r, "skipped": skipped}


def first_above(losses: list[float], ratio: float) -> int | None:
    """The step at which the guard should end a run: the smoothed loss as the weighted sum that it stands for."""
    start = sum(losses[:3]) / 3
    for step in range(3, len(losses)):
        later = losses[3 : step + 1]
        smoothed = 0.9 ** len(later) * start + sum(0.1 * 0.9 ** (len(later) - 1 - i) * x for i, x in enumerate(later))
        if smoothed > ratio * start:
            return step
    return None


def ended_at(guard: LossGuard, losses: list[float], first_step: int = 0) -> int | None:
    return next((i for i in range(first_step, len(losses)) if guard.exceeds(line(losses[i]))), None)


@pytest.mark.parametrize("ratio", [1.2, 2.0, 3.0, 50.0])
def test_it_ends_where_the_smoothed_loss_is_so_many_times_its_start(ratio: float) -> None:
    draw = random.Random(3)
    for _ in range(20):
        losses = [draw.uniform(0.5, 1.5) * 1.1**step for step in range(60)]
        expected = first_above(losses, ratio)
        assert ended_at(LossGuard(ratio), losses) == expected
        # a run that goes on from its log ends at the same step
        for first_step in (2, 3, 9):
            if expected is None or first_step < expected:
                earlier = [line(loss) for loss in losses[:first_step]]
                assert ended_at(LossGuard(ratio, earlier), losses, first_step) == expected
        assert ended_at(LossGuard(None), losses) is None


def test_a_skipped_step_and_a_start_without_samples_do_not_count() -> None:
    guard = LossGuard(3.0, [line(1.0), {"loss_r": "nan", "skipped": 1.0}, *[line(1.0)] * 2])
    assert guard.start == 1.0
    assert guard.exceeds(line(float("inf"), skipped=1.0)) is None
    message = guard.exceeds(line(100.0))
    assert message is not None and "is 10.9, more than 3 times the 1 it began with" in message
    assert LossGuard(3.0, [line(0.0)] * 3).exceeds(line(1.0)) is None


def diverging(digits: Path, base_model: Path, output: Path, ratio: float | None) -> ScrubConfig:
    """Adam's steps become far too long."""
    train = TrainConfig(
        max_train_steps=14, train_batch_size=8, checkpointing_steps=3, descent_every=0, max_loss_r_ratio=ratio
    )
    optimizer = OptimizerConfig(learning_rate=1.0, lr_scheduler="constant_with_warmup", lr_warmup_steps=12)
    return tiny_config(digits, base_model, output, train=train, optimizer=optimizer)


def test_a_scrub_that_destroys_the_rest_ends_killed_in_between_or_not(
    digits: Path, base_model: Path, tmp_path: Path
) -> None:
    def kill(step: int, model: ShardedModel) -> None:
        if step == 4:
            raise ZeroDivisionError

    ends = []
    for name, watch in (("whole", None), ("killed", kill)):
        config = diverging(digits, base_model, tmp_path / name, 1.4)
        if watch is not None:
            with pytest.raises(ZeroDivisionError):
                run_scrub(config, watch=watch)
        with pytest.raises(TrainingError) as error:
            run_scrub(config)
        ends.append(str(error.value))
        assert not (tmp_path / name / "model").exists()
        losses = [found["loss_r"] for found in read_metrics(tmp_path / name)]
        assert first_above(losses, 1.4) == len(losses) - 1 and len(losses) > 5
    assert ends[0] == ends[1]
    assert f"step {len(losses) - 1}: the remain loss L_r, smoothed, is" in ends[0] and "no model is written" in ends[0]
    assert history(tmp_path / "killed")[1]["first_step"] == 3

    # the same run, allowed to: it goes on to its end
    run_scrub(diverging(digits, base_model, tmp_path / "whole", None))
    assert (tmp_path / "whole" / "model").exists()


def test_a_model_made_from_nothing_is_not_guarded(digits: Path, tmp_path: Path) -> None:
    config = PretrainConfig(
        data=str(digits / "data"),
        output=str(tmp_path / "run"),
        unet=UNetConfig(block_out_channels=(8, 8), norm_num_groups=4),
        train=TrainConfig(max_train_steps=12, train_batch_size=8, max_loss_r_ratio=1.001),
        optimizer=OptimizerConfig(learning_rate=3.0, lr_scheduler="constant_with_warmup", lr_warmup_steps=11),
        engine=EngineConfig(device="cpu"),
    )
    run_pretrain(config)
    assert first_above([found["loss_r"] for found in read_metrics(tmp_path / "run")], 1.001) is not None


def test_defaults_by_target_in_python(digits: Path, base_model: Path, tmp_path: Path) -> None:
    assert EraseDiffConfig().eta == EraseDiffConfig(target="rl").eta == 0.5
    assert EraseDiffConfig(target="noise").eta == 1e-4
    assert EraseDiffConfig(target="noise", eta=0.5).eta == 0.5
    model, noise = ModelConfig("m"), EraseDiffConfig(target="noise")
    config = ScrubConfig(model=model, forget="f", remain="r", output="o", method=noise)
    assert (config.train.max_train_steps, config.optimizer.learning_rate) == (150, 3e-4)
    config = EraseConfig(request="q", model=model, data="d", output="o", method=noise, train=TrainConfig(seed=1))
    assert (config.train.max_train_steps, config.optimizer.learning_rate) == (100, 3e-4), (
        "a section given is taken whole"
    )
    config = ScrubConfig(model=model, forget="f", remain="r", output="o", method=MOOConfig(target="noise"))
    assert (config.train.max_train_steps, config.optimizer.learning_rate) == (100, 1e-4)


RL, NOISE = (0.5, 100, 1e-4), (1e-4, 150, 3e-4)
NOISE_FILE = "[method]\ntarget = 'noise'\n"


@pytest.mark.parametrize(
    ("file", "words", "expected"),
    [
        ("", [], RL),
        ("", ["--method.target", "noise"], NOISE),
        ("", ["--method.target=noise", "--method.eta", "0.5", "--train.max-train-steps", "9"], (0.5, 9, 3e-4)),
        ("[train]\nmax_train_steps = 80\n", ["--method.target", "noise"], (1e-4, 80, 3e-4)),
        ("[train]\nseed = 80\n", ["--method.target", "noise", "--optimizer.learning-rate", "1e-5"], (1e-4, 150, 1e-5)),
        (NOISE_FILE, [], NOISE),
        (NOISE_FILE, ["--method.target", "rl"], RL),
        (NOISE_FILE + "eta = 0.02\n[optimizer]\nlearning_rate = 2e-4\n", [], (0.02, 150, 2e-4)),
    ],
)
def test_the_dry_run_shows_the_settings_that_hold(
    digits: Path,
    base_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    words: list[str],
    expected: tuple[float, ...],
) -> None:
    (tmp_path / "run.toml").write_text(file)
    split = digits / "split"
    command = ["scrub", str(tmp_path / "run.toml"), "--model.path", str(base_model), "--model.null-class", "10"]
    command += ["--forget", str(split / "forget"), "--remain", str(split / "remain"), "--output", str(tmp_path / "run")]
    assert main([*command, "--dry-run", *words]) == 0
    shown = dict(found.split(" = ") for found in capsys.readouterr().out.splitlines() if " = " in found[:24])
    assert tuple(float(shown[key]) for key in ("eta", "max_train_steps", "learning_rate")) == expected


@pytest.mark.parametrize("steps", [1, 2, 20, 400, 598, 599, 900, 5000])
def test_the_averages_default_decay_fits_the_length(steps: int) -> None:
    decay = OptimizerConfig(ema_decay="auto").fitted(steps).ema_decay
    assert isinstance(decay, float) and decay**steps <= 0.05 * (1 + 1e-9)
    assert decay == 0.995 if steps >= 598 else decay > 0.99 * 0.05 ** (1 / steps)
    check_optimizer(OptimizerConfig(ema_decay=decay), TrainConfig(max_train_steps=steps))
    for given in (None, 0.9):
        assert OptimizerConfig(ema_decay=given).fitted(steps).ema_decay == given
