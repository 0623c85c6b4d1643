"""Settings that change nothing say so, and only those: a run with them has the weights of one without."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from erasediff.trainer import EraseDiffConfig, FinetuneConfig, MOOConfig
from erasediff.trainer.config import (
    EngineConfig,
    JudgeConfig,
    MethodConfig,
    OptimizerConfig,
    PretrainConfig,
    ResNetConfig,
    SamplingConfig,
    StableDiffusionConfig,
    TrainConfig,
    UNetConfig,
)
from erasediff.trainer.methods.esd import ESDConfig
from erasediff.trainer.pretrain import dry_run as pretrain_dry_run
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.run.effects import effect_notes, judge_effect_notes, pretrain_effect_notes
from erasediff.trainer.scrubbing import dry_run, run_scrub
from safetensors.torch import load_file
from tiny import tiny_config

NOISE = EraseDiffConfig(target="noise")
VALUE = EraseDiffConfig(barrier="value")


def notes(method: MethodConfig, on_cuda: bool = False, **sections: object) -> list[str]:
    plain = {"train": TrainConfig(), "optimizer": OptimizerConfig(), "engine": EngineConfig()}
    return effect_notes(method, **({"on_cuda": on_cuda} | plain | sections))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("method", [EraseDiffConfig(), NOISE, VALUE, MOOConfig(), FinetuneConfig()])
@pytest.mark.parametrize("on_cuda", [False, True])
def test_defaults_need_no_word(method: MethodConfig, on_cuda: bool) -> None:
    assert notes(method, on_cuda=on_cuda) == []


SGD = OptimizerConfig(name="sgd", betas=(0.5, 0.9), eps=1e-3, momentum=0.9)


@pytest.mark.parametrize(
    ("method", "sections", "keys"),
    [
        (EraseDiffConfig(target="noise", anchor=4, teacher="frozen"), {}, ["method.anchor", "method.teacher"]),
        (MOOConfig(target="noise", anchor=4), {}, ["method.anchor"]),
        (EraseDiffConfig(anchor=4, teacher="frozen"), {}, []),
        (EraseDiffConfig(barrier="value", inner_every=2), {}, ["method.inner_every"]),
        (EraseDiffConfig(inner_every=2, num_inner_steps=5, xi=0.1), {}, []),
        (EraseDiffConfig(num_inner_steps=5, xi=0.1), {}, ["method.num_inner_steps", "method.xi"]),
        (EraseDiffConfig(barrier="value", num_inner_steps=5, xi=0.1), {}, []),
        (ESDConfig(anchor="a cat", concept=("dog",)), {}, ["method.anchor", "method.concept"]),
        (ESDConfig(teacher="frozen"), {}, ["method.teacher"]),
        (EraseDiffConfig(barrier="value", num_inner_steps=0, xi=0.5), {}, ["method.xi"]),
        (FinetuneConfig(), {"train": TrainConfig(forget_label_drop=0.5)}, ["train.forget_label_drop"]),
        (FinetuneConfig(), {"train": TrainConfig(descent_every=3)}, ["train.descent_every"]),
        (MOOConfig(), {"train": TrainConfig(forget_label_drop=0.5, descent_every=3)}, []),
        (VALUE, {"optimizer": OptimizerConfig(momentum=0.9, betas=(0.5, 0.9))}, ["optimizer.momentum"]),
        (VALUE, {"optimizer": SGD}, ["optimizer.betas", "optimizer.eps"]),
        (VALUE, {"engine": EngineConfig(persistence_threshold=9)}, ["engine.persistence_threshold"]),
        (VALUE, {"engine": EngineConfig(persistence_threshold=9, zero_stage=3, reduce_dtype="bf16")}, []),
        (VALUE, {"engine": EngineConfig(deterministic=True, num_threads=1)}, ["engine.deterministic"]),
        (VALUE, {"engine": EngineConfig(activation_checkpointing="inner")}, ["engine.activation_checkpointing"]),
        (VALUE, {"engine": EngineConfig(activation_checkpointing="all", activation_checkpointing_share=0.5)}, []),
        (
            VALUE,
            {"engine": EngineConfig(activation_checkpointing_share=0.5)},
            ["engine.activation_checkpointing_share"],
        ),
        (VALUE, {"engine": EngineConfig(precision="tf32")}, ["engine.precision"]),
        (VALUE, {"engine": EngineConfig(cudnn_benchmark=True)}, ["engine.cudnn_benchmark"]),
        (VALUE, {"engine": EngineConfig(precision="tf32", cudnn_benchmark=True), "on_cuda": True}, []),
        (EraseDiffConfig(gradient_of_g="first_order"), {"engine": EngineConfig(activation_checkpointing="inner")}, []),
        (VALUE, {"engine": EngineConfig(deterministic=True, num_threads=1), "on_cuda": True}, ["engine.num_threads"]),
    ],
)
def test_what_changes_nothing_is_named(method: MethodConfig, sections: dict[str, object], keys: list[str]) -> None:
    said = notes(method, **sections)  # pyright: ignore[reportArgumentType]
    assert [line.split()[2] for line in said] == keys
    assert all(line.startswith("no effect   ") and ": " in line for line in said)


def test_a_judges_settings_too() -> None:
    judge = JudgeConfig(relearn=True, sampling=SamplingConfig(guidance_scale=3.0))
    assert judge_effect_notes(judge, forgets_classes=True, has_null=True) == []
    assert judge_effect_notes(JudgeConfig(), forgets_classes=False, has_null=False) == []
    assert judge_effect_notes(judge, forgets_classes=False, has_null=False) == [
        "no effect   judge.relearn = True: it measures a class, and single samples are forgotten",
        "no effect   judge.sampling.guidance_scale = 3.0: the model has no null class",
    ]
    idle = JudgeConfig(detector_thresholds=(0.5,), num_kept_samples=4)
    assert judge_effect_notes(idle, forgets_classes=True, has_null=True) == [
        "no effect   judge.detector_thresholds = [0.5]: judge.detector names none",
        "no effect   judge.num_kept_samples = 4: judge.kept_prompts names none",
    ]
    resnet = ResNetConfig(num_epochs=3)
    assert judge_effect_notes(JudgeConfig(resnet=resnet), forgets_classes=True, has_null=True) == [
        "no effect   judge.resnet: judge.architecture = 'resnet' would train one",
    ]
    named = JudgeConfig(classifier="there", architecture="resnet", resnet=resnet)
    assert judge_effect_notes(named, forgets_classes=True, has_null=True) == [
        "no effect   judge.architecture = 'resnet': judge.classifier names one",
    ]
    for trained in (dataclasses.replace(named, classifier=None), dataclasses.replace(named, factor="colours")):
        assert judge_effect_notes(trained, forgets_classes=True, has_null=True) == []
    both = dataclasses.replace(named, factor="colours", factor_classifier="there")
    assert len(judge_effect_notes(both, forgets_classes=True, has_null=True)) == 1
    used = JudgeConfig(detector="nudenet", detector_thresholds=(0.5,), kept_prompts="kept.csv", num_kept_samples=4)
    assert judge_effect_notes(used, forgets_classes=True, has_null=True) == []


def test_a_pretrainings_settings_too(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = PretrainConfig(
        data=str(digits / "data"),
        output=str(tmp_path / "plain"),
        unet=UNetConfig(block_out_channels=(8, 8), norm_num_groups=4),
        train=TrainConfig(max_train_steps=2, train_batch_size=4),
        engine=EngineConfig(device="cpu"),
    )
    config = dataclasses.replace(
        plain,
        output=str(tmp_path / "set"),
        train=dataclasses.replace(plain.train, forget_label_drop=0.5, max_loss_r_ratio=1.001),
        stable_diffusion=StableDiffusionConfig(text_width=32),
    )
    expected = [
        "no effect   train.forget_label_drop = 0.5: the method reads no forget sample",
        "no effect   train.max_loss_r_ratio = 1.001: it ends a scrub",
        "no effect   stable_diffusion: it is for pipeline = 'stable-diffusion', and this one is 'unet2d'",
    ]
    assert pretrain_effect_notes(plain, on_cuda=False) == []
    assert [line for line in pretrain_dry_run(config).splitlines() if line.startswith("no effect")] == expected
    capsys.readouterr()
    ours = run_pretrain(config)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("no effect")] == expected
    theirs = run_pretrain(plain)
    one, other = (load_file(model / "unet" / "diffusion_pytorch_model.safetensors") for model in (ours, theirs))
    assert all(torch.equal(one[name], other[name]) for name in one)
    text = PretrainConfig("data", "run", pipeline="stable-diffusion", unet=plain.unet)
    assert pretrain_effect_notes(text, on_cuda=False) == [
        "no effect   unet: it is for pipeline = 'unet2d', and this one is 'stable-diffusion'"
    ]


def test_it_is_said_in_the_dry_run_and_at_the_start_and_it_is_true(
    digits: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tiny_config(digits, base_model, tmp_path / "plain", method=NOISE)
    config = dataclasses.replace(
        plain,
        output=str(tmp_path / "set"),
        method=dataclasses.replace(NOISE, anchor=4, teacher="frozen"),
        optimizer=OptimizerConfig(momentum=0.9),
        engine=EngineConfig(device="cpu", persistence_threshold=9, deterministic=True),
    )
    expected = [
        "no effect   method.anchor = 4: the noise target asks no model for a prediction",
        "no effect   method.teacher = frozen: the noise target asks no model for a prediction",
        "no effect   optimizer.momentum = 0.9: it is sgd's",
        "no effect   engine.persistence_threshold = 9: the weights are whole on every rank; it is for "
        "engine.zero_stage = 3",
        "no effect   engine.deterministic = True: on a CPU every run is",
    ]

    def said(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("no effect")]

    assert said(dry_run(config)) == expected
    capsys.readouterr()
    ours = run_scrub(config)
    assert said(capsys.readouterr().out) == expected
    theirs = run_scrub(plain)
    assert said(capsys.readouterr().out) == []
    one, other = (load_file(model / "unet" / "diffusion_pytorch_model.safetensors") for model in (ours, theirs))
    assert all(torch.equal(one[name], other[name]) for name in one)
