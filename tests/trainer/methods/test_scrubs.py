"""Whole scrubs by the methods that EraseDiff is compared with: what moves, and what ends them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from erasediff.trainer import EraseDiffConfig, FinetuneConfig, MOOConfig
from erasediff.trainer.config import OptimizerConfig, TrainConfig
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import ConfigError, Interrupted, TrainingError
from erasediff.trainer.methods.blindspot import BlindspotConfig
from erasediff.trainer.methods.meta_erasediff import MetaEraseDiffConfig
from erasediff.trainer.methods.munba import MUNBaConfig
from erasediff.trainer.methods.neggrad import NegGradConfig
from erasediff.trainer.methods.restricted_gradient import RestrictedGradientConfig
from erasediff.trainer.methods.salun import SalUnConfig
from erasediff.trainer.methods.selective_amnesia import SelectiveAmnesiaConfig
from erasediff.trainer.ranks import meeting
from erasediff.trainer.run.loop import Loop
from erasediff.trainer.scrubbing import plan, run_scrub
from safetensors.torch import load_file
from tiny import tiny_config

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SGD = OptimizerConfig(name="sgd", learning_rate=0.01)


def scrub(digits: Path, base: Path, output: Path, method: Any, watch: Any = None, **train: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"max_train_steps": 3, "train_batch_size": 6} | train
    length = TrainConfig(**given)
    config = tiny_config(digits, base, output, method=method, train=length, optimizer=SGD)
    return load_file(run_scrub(config, watch=watch) / WEIGHTS)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def num_moved(scrubbed: dict[str, torch.Tensor], base: Path) -> tuple[int, int]:
    before = load_file(base / WEIGHTS)
    moved = sum(int((scrubbed[name] != before[name]).sum()) for name in before)
    return moved, sum(value.numel() for value in before.values())


@pytest.mark.parametrize("method", [MOOConfig(), MUNBaConfig(), RestrictedGradientConfig()], ids=lambda one: one.name)
def test_conflict_and_descent_are_logged_every_so_many_steps(
    digits: Path, base_model: Path, tmp_path: Path, method: Any
) -> None:
    scrub(digits, base_model, tmp_path / "run", method, descent_every=2)
    for name in ("descent", "conflict"):
        found = [any(key.startswith(name) for key in line) for line in metrics(tmp_path / "run")]
        assert found == [True, False, True], name


def test_a_cap_on_one_multiplier_of_two_is_logged(digits: Path, base_model: Path, tmp_path: Path) -> None:
    """Relearned a little, both gradients are nearly one: one multiplier does for both barriers."""
    scrub(digits, base_model, tmp_path / "run", MetaEraseDiffConfig(eta=3.0, lambda_cap=0.5, num_relearning_steps=1))
    for line in metrics(tmp_path / "run"):
        assert sorted((line["lambda_t"], line["mu_t"])) == [0.0, 0.5] and line["capped"] == 1


def test_without_inner_steps_phi_is_theta(digits: Path, base_model: Path, tmp_path: Path) -> None:
    first_order = EraseDiffConfig(gradient_of_g="first_order", num_inner_steps=0)
    moved = scrub(digits, base_model, tmp_path / "first order", first_order)
    for line in metrics(tmp_path / "first order"):
        assert (line["g"], line["dot_gg"], line["lambda_t"]) == (0, 0, 0) and line["loss_phi"] == line["loss_f"] > 0
    # nothing is added to ∇L_r
    tuned = scrub(digits, base_model, tmp_path / "finetune", FinetuneConfig())
    assert all(torch.equal(moved[name], tuned[name]) for name in tuned)
    # six samples of D_r alone
    for line in metrics(tmp_path / "finetune"):
        assert line["samples_per_second"] == pytest.approx(6 / line["seconds"], rel=2e-2, abs=0.06)
    scrub(digits, base_model, tmp_path / "value", EraseDiffConfig(barrier="value", num_inner_steps=0))
    for line in metrics(tmp_path / "value"):
        # ∇g is ∇L_f(θ_t) there, whatever g is
        assert line["g"] == 0 and line["dot_gg"] > 0


def test_salun_moves_the_salient_weights_alone(digits: Path, base_model: Path, tmp_path: Path) -> None:
    method = SalUnConfig(saliency=0.2, num_mask_batches=2)
    scrubbed = scrub(digits, base_model, tmp_path / "run", method)
    moved, total = num_moved(scrubbed, base_model)
    assert 0.19 * total < moved <= 0.2 * total


@pytest.mark.parametrize("saliency", [0.2, 1.0])
def test_a_mask_of_what_is_not_finite_is_refused(
    digits: Path, base_model: Path, tmp_path: Path, saliency: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a gradient overflows before the first step."""
    gradient = ShardedModel.gradient

    def overflowing(model: ShardedModel, *words: Any, **options: Any) -> Any:
        loss, found = gradient(model, *words, **options)
        found.data[7] = float("inf")
        return loss, found

    monkeypatch.setattr(ShardedModel, "gradient", overflowing)
    with pytest.raises(TrainingError, match=r"made before its first step \(mask\) is not finite; no model is written"):
        scrub(digits, base_model, tmp_path / "run", SalUnConfig(saliency=saliency, num_mask_batches=1))
    assert not (tmp_path / "run" / "model").exists()


def test_salun_refuses_what_moves_all_weights(digits: Path, base_model: Path, tmp_path: Path) -> None:
    config = tiny_config(digits, base_model, tmp_path / "run", method=SalUnConfig())
    config = dataclasses.replace(config, optimizer=OptimizerConfig(weight_decay=0.1))
    with pytest.raises(ConfigError, match=r"optimizer.weight_decay = 0.1 moves all weights, .* its mask alone: use 0"):
        plan(config)


def test_what_was_not_taken_at_theta_is_not_logged_as_such(digits: Path, base_model: Path, tmp_path: Path) -> None:
    for holds_theta in (True, False):
        method = MetaEraseDiffConfig(num_relearning_steps=1, relearning_rate=1e-3, holds_theta=holds_theta)
        scrub(digits, base_model, tmp_path / str(holds_theta), method, max_train_steps=1)
        (line,) = metrics(tmp_path / str(holds_theta))
        assert {"loss_phi", "loss_r", "dot_pp", "dot_pr", "mu_t"} <= line.keys()
        assert all((key in line) is holds_theta for key in ("loss_f", "dot_ff", "dot_fr", "dot_fp"))


def test_salun_of_all_weights_moves_those_that_the_forgotten_do_not_use(
    digits: Path, base_model: Path, tmp_path: Path
) -> None:
    scrubbed = scrub(digits, base_model, tmp_path / "run", SalUnConfig(saliency=1.0), train_batch_size=16)
    name = "class_embedding.weight"
    moved = (scrubbed[name] != load_file(base_model / WEIGHTS)[name]).any(1)
    assert moved.sum() > 4  # the 3's own, and classes that remain


@pytest.mark.parametrize(
    "method",
    [
        SalUnConfig(saliency=0.2, num_mask_batches=2),
        SelectiveAmnesiaConfig(penalty=1e2, num_fisher_levels=3),
        BlindspotConfig(num_proxy_steps=2),
    ],
    ids=["salun", "selective_amnesia", "blindspot"],
)
def test_what_is_kept_outlives_a_stop(digits: Path, base_model: Path, tmp_path: Path, method: Any) -> None:
    whole = scrub(digits, base_model, tmp_path / "whole", method, max_train_steps=4)

    def stop(step: int, _: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scrub(digits, base_model, tmp_path / "stopped", method, stop, max_train_steps=4, checkpointing_steps=2)
    went_on = scrub(digits, base_model, tmp_path / "stopped", method, max_train_steps=4, checkpointing_steps=2)
    assert all(torch.equal(whole[name], went_on[name]) for name in whole)


def test_selective_amnesia_holds_what_the_remaining_samples_need(
    digits: Path, base_model: Path, tmp_path: Path
) -> None:
    """The penalty is felt by the weights of much Fisher information; others may go further in their place."""
    moved = {}
    for penalty in (0.0, 30.0):
        method = SelectiveAmnesiaConfig(penalty=penalty, num_fisher_levels=5)
        scrubbed = scrub(digits, base_model, tmp_path / str(penalty), method, max_train_steps=12)
        moved[penalty] = {name: value - load_file(base_model / WEIGHTS)[name] for name, value in scrubbed.items()}
    lines = {penalty: metrics(tmp_path / str(penalty)) for penalty in moved}
    assert lines[30.0][0]["penalty"] == 0 < lines[30.0][-1]["penalty"]
    assert {line["penalty"] for line in lines[0.0]} == {0}
    free, held = (torch.cat([value.flatten() for value in moved[penalty].values()]) for penalty in (0.0, 30.0))
    most = free.abs().argsort(descending=True)
    assert held[most[:10]].norm() < 0.6 * free[most[:10]].norm()
    others = most[len(most) // 2 :]
    assert (held[others] - free[others]).norm() < free[others].norm()


def test_neggrad_raises_the_forgotten_loss_up_to_its_bound(digits: Path, base_model: Path, tmp_path: Path) -> None:
    length = {"max_train_steps": 12, "train_batch_size": 16, "max_loss_r_ratio": None}
    scrub(digits, base_model, tmp_path / "free", NegGradConfig(max_loss=1e6), **length)
    free = [line["loss_f"] for line in metrics(tmp_path / "free")]
    assert min(free[-3:]) > 1.3 * max(free[:3])
    bound = 1.1 * max(free[:3])
    scrub(digits, base_model, tmp_path / "bound", NegGradConfig(max_loss=bound), **length)
    lines = metrics(tmp_path / "bound")
    assert max(line["loss_f"] for line in lines) < max(free)
    assert any(line["ascends"] == 0 for line in lines) and any(line["ascends"] == 1 for line in lines)
    assert all(line["ascends"] == (line["loss_f"] < bound) for line in lines)


def test_a_mask_of_nothing_ends_the_run(digits: Path, base_model: Path, tmp_path: Path) -> None:
    """The model would be published as it was."""
    with pytest.raises(TrainingError, match=r"method\.saliency = 1e-09 leaves no weight to move"):
        scrub(digits, base_model, tmp_path / "run", SalUnConfig(saliency=1e-9, num_mask_batches=1))
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    "method",
    [
        SalUnConfig(num_mask_batches=4),
        SelectiveAmnesiaConfig(num_fisher_batches=4, num_fisher_levels=1),
        BlindspotConfig(num_proxy_steps=4),
    ],
    ids=lambda method: method.name,
)
def test_a_stop_is_heard_while_a_method_prepares(
    digits: Path, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    read, numbers = Loop._read_for_preparing, []  # pyright: ignore[reportPrivateUsage]

    def counted(self: Any, reader: Any, number: int) -> Any:
        numbers.append(number)
        if len(numbers) == 3:
            meeting.ask()
        return read(self, reader, number)

    monkeypatch.setattr(Loop, "_read_for_preparing", counted)
    with pytest.raises(Interrupted, match="stopped before the first step"):
        scrub(digits, base_model, tmp_path / "run", method)
    assert len(numbers) == 3 and not meeting.is_asked()
    monkeypatch.setattr(Loop, "_read_for_preparing", read)
    scrub(digits, base_model, tmp_path / "run", method)
