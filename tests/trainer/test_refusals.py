"""What a scrub refuses, in one line and before anything is written."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from erasediff.shards import build, split
from erasediff.trainer import EraseDiffConfig, MOOConfig
from erasediff.trainer.config import (
    EngineConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
)
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.scrubbing import plan, run_scrub, scrub
from PIL import Image
from safetensors.torch import load_file
from tiny import make_pipeline, tiny_config


def test_rl_is_refused_for_an_unconditional_model(digits: Path, tmp_path: Path) -> None:
    base = make_pipeline(tmp_path / "base", num_classes=None)
    with pytest.raises(ConfigError, match=r"unconditional: use method\.target = 'noise'"):
        run_scrub(tiny_config(digits, base, tmp_path / "run", null_class=None))
    assert not (tmp_path / "run").exists()


def test_dropping_labels_needs_a_null_class(digits: Path, base_model: Path, tmp_path: Path) -> None:
    config = tiny_config(digits, base_model, tmp_path / "run", train=TrainConfig(label_drop=0.1))
    named = ModelConfig(str(base_model), classes=tuple("0123456789"))
    with pytest.raises(ConfigError, match=r"train\.label_drop = 0\.1 needs a null class"):
        run_scrub(dataclasses.replace(config, model=named))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"null_class": None}, "or, if its class 10 stands for 'no class', set model.null_class = 10"),
        ({"train": TrainConfig(max_train_steps=0)}, "train.max_train_steps = 0: at least 1"),
        ({"optimizer": OptimizerConfig(max_grad_norm=-1.0)}, "optimizer.max_grad_norm = -1.0: more than 0"),
        ({"optimizer": OptimizerConfig(betas=(1.5, 0.9))}, "optimizer.betas.0 = 1.5: less than 1"),
        ({"optimizer": OptimizerConfig(eps=0.0)}, "optimizer.eps = 0.0: more than 0"),
        ({"train": TrainConfig(layers=())}, "train.layers names no layers: leave it out, or give 'full'"),
        (
            {"train": TrainConfig(layers=()), "engine": EngineConfig(zero_stage=3)},
            "train.layers names no layers: leave it out",
        ),
        ({"optimizer": OptimizerConfig(lr_warmup_steps=2)}, "use 'constant_with_warmup'"),
        ({"engine": EngineConfig(forward_batch_size=0)}, "engine.forward_batch_size = 0: at least 1"),
        ({"engine": EngineConfig(persistence_threshold=-1)}, "engine.persistence_threshold = -1: at least 0"),
        (
            {"engine": EngineConfig(zero_stage=3, reduce_bucket_size=1151)},
            "conv1.weight has 1,152 elements, and engine.reduce_bucket_size = 1,151: set it to 1152",
        ),
        ({"train": TrainConfig(checkpoints_total_limit=0)}, "train.checkpoints_total_limit = 0: at least 1"),
        (
            {"engine": EngineConfig(precision="bf16"), "method": EraseDiffConfig(inner_every=2)},
            "which method.inner_every = 2 looks at",
        ),
        ({"train": TrainConfig(seed=-1)}, "train.seed = -1: at least 0"),
        ({"method": EraseDiffConfig(eta=-1.0)}, "method.eta = -1.0: at least 0"),
        ({"method": EraseDiffConfig(lambda_cap=-1.0)}, "method.lambda_cap = -1.0: at least 0"),
        ({"method": MOOConfig(weight=float("inf"))}, "method.weight = inf: a finite number"),
        ({"optimizer": OptimizerConfig(ema_decay=0.9999)}, "keeps 100% of the old weights"),
        ({"method": EraseDiffConfig(anchor=3)}, "method.anchor = 3 is a class that is to be forgotten"),
        ({"method": EraseDiffConfig(anchor=99)}, "method.anchor = 99 is no class of the model (0 to 10)"),
        ({"null_class": 3}, "the model 11, its null class 3 among them, without names"),
        ({"null_class": 40}, "model.null_class = 40 is no class of the model"),
        (
            {"engine": EngineConfig(precision="bf16"), "method": EraseDiffConfig(barrier="value")},
            "engine.precision = 'bf16' rounds the inner steps away",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    digits: Path, base_model: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_scrub(tiny_config(digits, base_model, tmp_path / "run", **changes))  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "run").exists()


def test_a_null_class_that_samples_have_is_refused(digits: Path, tmp_path: Path) -> None:
    base = make_pipeline(tmp_path / "base", num_classes=10)
    with pytest.raises(ConfigError, match=r"model\.null_class = 3 is the label of samples"):
        run_scrub(tiny_config(digits, base, tmp_path / "run", null_class=3))
    assert not (tmp_path / "run").exists()


def test_a_difference_of_gradients_that_are_rounded_on_the_wire_is_refused() -> None:
    rounded = EngineConfig(reduce_dtype="bf16")
    with pytest.raises(ConfigError, match=r"engine\.reduce_dtype = 'bf16' rounds away .* use engine\.reduce_dtype"):
        EraseDiffConfig(gradient_of_g="first_order").check(rounded)
    EraseDiffConfig(barrier="value").check(rounded)


def test_models_that_are_none_are_refused(digits: Path, base_model: Path, tmp_path: Path) -> None:
    def message(base: Path) -> str:
        with pytest.raises(ConfigError) as error:
            run_scrub(tiny_config(digits, base, tmp_path / "run"))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no such folder" in message(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no model_index.json" in message(tmp_path / "empty")
    pickled = tmp_path / "pickled"
    shutil.copytree(base_model, pickled)
    stored = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(stored), stored.with_suffix(".bin"))
    stored.unlink()
    assert "diffusion_pytorch_model.bin is pickled" in message(pickled)
    assert not (tmp_path / "run").exists()


def test_samples_without_a_label_are_refused_where_the_model_must_be_told_one(
    digits: Path, base_model: Path, tmp_path: Path
) -> None:
    for i in range(3):
        Image.new("L", (8, 8), 40 * i).save(tmp_path / f"{i}.png")
    (tmp_path / "table.jsonl").write_text("".join(f'{{"path": "{i}.png"}}\n' for i in range(3)))
    build(tmp_path / "table.jsonl", tmp_path / "unlabelled")
    config = tiny_config(digits, base_model, tmp_path / "run")
    with pytest.raises(ConfigError, match="3 samples have no label, 0 for one"):
        run_scrub(dataclasses.replace(config, remain=str(tmp_path / "unlabelled")))
    assert not (tmp_path / "run").exists()


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_models_trained_for_something_else_are_refused(digits: Path, base_model: Path, tmp_path: Path) -> None:
    def message(name: str, change: Callable[[Path], object]) -> str:
        base = tmp_path / name
        shutil.copytree(base_model, base)
        change(base)
        with pytest.raises(ConfigError) as error:
            run_scrub(tiny_config(digits, base, tmp_path / "run"))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()
        return str(error.value)

    flow = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    assert "has no DDPM noise schedule" in message(
        "flow", lambda base: edit_json(base / "model_index.json", scheduler=flow)
    )
    latent = ["diffusers", "VQModel"]
    assert "has a vqvae" in message("latent", lambda base: edit_json(base / "model_index.json", vqvae=latent))
    assert "cannot be loaded" in message("no-scheduler", lambda base: shutil.rmtree(base / "scheduler"))
    stored = "unet/diffusion_pytorch_model.safetensors"
    other = "cannot be loaded: Error(s) in loading state_dict for UNet2DModel: size mismatch for conv_in.weight"
    assert other in message("size", lambda base: edit_json(base / "unet/config.json", block_out_channels=[16, 8]))
    assert "cannot be loaded" in message("torn", lambda base: (base / stored).write_bytes(b"torn"))
    assert "sample_size is None" in message(
        "no-size", lambda base: edit_json(base / "unet/config.json", sample_size=None)
    )


def test_a_learned_variance_is_refused(digits: Path, tmp_path: Path) -> None:
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=2,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=11,
    )
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(tmp_path / "base")
    with pytest.raises(ConfigError, match="1 channels in, 2 out"):
        run_scrub(tiny_config(digits, tmp_path / "base", tmp_path / "run"))


def test_sets_of_other_classes_are_refused(digits: Path, base_model: Path, tmp_path: Path) -> None:
    build("digits", tmp_path / "data", classes=list("9876543210"))
    split(tmp_path / "data", tmp_path / "other", ["3"])
    config = tiny_config(digits, base_model, tmp_path / "run")
    with pytest.raises(ConfigError, match="have different classes"):
        run_scrub(dataclasses.replace(config, forget=str(tmp_path / "other" / "forget")))


@dataclass(frozen=True)
class Targetless(MethodConfig):
    """It reads D_f, and would train towards it."""

    name: str = "targetless"


def test_a_method_that_names_no_target_is_refused(digits: Path, base_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'targetless' reads forget samples and says no target for them"):
        plan(tiny_config(digits, base_model, tmp_path / "run", method=Targetless()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("pipeline", ["unet2d", "stable-diffusion"])
def test_a_model_from_nothing_trains_whole(digits: Path, tmp_path: Path, pipeline: Any) -> None:
    train = TrainConfig(layers=("mid_block.*",))
    config = PretrainConfig(str(digits / "data"), str(tmp_path / "run"), pipeline=pipeline, train=train)
    with pytest.raises(ConfigError, match=r"train\.layers: a model that begins from nothing trains whole"):
        run_pretrain(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"caption": "a {}"}, r"model\.caption: .* works on pixels"),
        ({"image_size": 16}, r"model\.image_size: .* works on pixels"),
        ({"truncate_prompts": True}, r"model\.truncate_prompts: .* works on pixels"),
        ({"variant": "fp16"}, "cannot be loaded"),
    ],
)
def test_settings_of_a_model_reach_it(
    digits: Path, base_model: Path, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    sets = {"forget": digits / "split" / "forget", "remain": digits / "split" / "remain"}
    with pytest.raises(ConfigError, match=said):
        scrub(base_model, **sets, output=tmp_path / "run", **settings)
