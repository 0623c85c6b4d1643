"""Pipelines in an autoencoder's latents that are not whole, not of one model, or told more than is known here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from erasediff.trainer.config import ModelConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.families import load_model
from safetensors.torch import load_file, save_file
from tiny_text import make_pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("whole") / "pipeline")


def _without(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)


def _pickled(folder: Path, part: str) -> None:
    (weights,) = (folder / part).glob("*.safetensors")
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


def _torn(folder: Path, part: str, name: str) -> None:
    (path,) = (folder / part).glob("*.safetensors")
    weights = load_file(path)
    save_file({key: value for key, value in weights.items() if name not in key}, path, metadata={"format": "pt"})


def _named(folder: Path, part: str, kind: str) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: ["diffusers", kind]}))


def _unlink(path: Path) -> None:
    path.unlink()


def _index(folder: Path, change: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def _unchecked(folder: Path) -> None:
    _named(folder, "safety_checker", "StableDiffusionSafetyChecker")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")


def _set(folder: Path, part: str, name: str = "config.json", **values: Any) -> None:
    path = folder / part / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "options", "said"),
    [
        (
            lambda folder: _without(folder, "vae"),
            {},
            "has no vae: unet, vae, scheduler, text_encoder, tokenizer are needed",
        ),
        (lambda folder: _without(folder, "tokenizer"), {}, "has no tokenizer"),
        (lambda folder: _pickled(folder, "text_encoder"), {}, "is pickled, and unpickling runs code"),
        (lambda folder: _pickled(folder, "unet"), {}, "is pickled, and unpickling runs code"),
        (lambda folder: None, {"image_size": 18}, r"model.image_size = 18: a multiple of 4 is needed"),
        (lambda folder: None, {"null_class": 3}, "model.null_class: .* is told prompts and has no classes"),
        (lambda folder: None, {"classes": ("a", "b")}, "model.classes: .* is told prompts and has no classes"),
        (
            lambda folder: _set(folder, "text_encoder", hidden_size=32),
            {},
            "cannot be loaded|the parts are of two models",
        ),
        (lambda folder: _set(folder, "unet", in_channels=9), {}, "cannot be loaded"),
        (lambda folder: _torn(folder, "text_encoder", "layers.1"), {}, "its text_encoder is not whole: .* holds no"),
        (lambda folder: _torn(folder, "vae", "encoder.mid"), {}, "its vae is not whole: .* holds no encoder.mid"),
        (lambda folder: _torn(folder, "unet", "conv_out.bias"), {}, "its unet is not whole: .* holds no conv_out.bias"),
        (
            lambda folder: _named(folder, "controlnet", "ControlNetModel"),
            {},
            "has a controlnet, a ControlNetModel, which would neither be trained with nor drawn with",
        ),
        (
            lambda folder: _named(folder, "safety_checker", "StableDiffusionSafetyChecker"),
            {},
            r'has no safety_checker, which .* or write "safety_checker": \[null, null\] there',
        ),
        (_unchecked, {}, r"its safety_checker has no weights, .* or write .*null"),
        (lambda folder: _unlink(folder / "text_encoder" / "config.json"), {}, "has no text_encoder/config.json: fetch"),
        (lambda folder: _unlink(folder / "vae" / "config.json"), {}, "has no vae/config.json: fetch"),
        (lambda folder: _unlink(folder / "scheduler" / "scheduler_config.json"), {}, "has no scheduler/scheduler_conf"),
        (
            lambda folder: _unlink(folder / "tokenizer" / "tokenizer_config.json"),
            {},
            r"its text_encoder takes 16 tokens, and its tokenizer's model_max_length is 1\d{30}: set it to 16 in",
        ),
        (
            lambda folder: _set(folder, "tokenizer", "tokenizer_config.json", model_max_length=77),
            {},
            "its text_encoder takes 16 tokens, and its tokenizer's model_max_length is 77: set it to 16 in",
        ),
        (lambda folder: _index(folder, lambda index: [*index]), {}, "does not name each part's library and class"),
        (lambda folder: _index(folder, lambda i: i | {"vae": ["diffusers"]}), {}, "does not name each part's library"),
        (lambda folder: _index(folder, lambda i: i | {"unet": "x"}), {}, "erasediff scrubs pipelines|has no unet"),
    ],
)
def test_refusals(pipeline: Path, tmp_path: Path, spoil: Any, options: dict[str, Any], said: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pipeline, folder)
    spoil(folder)
    with pytest.raises(ConfigError, match=said) as raised:
        load_model(ModelConfig(str(folder), **options))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("in_channels", 9, "its unet takes 9 channels and gives 4, its vae's latents have 4"),
        ("time_cond_proj_dim", 8, r"is told more than time and prompt \(time_cond_proj_dim\)"),
        ("addition_embed_type", "text", r"is told more than time and prompt \(addition_embed_type\)"),
    ],
)
def test_a_unet_for_something_else_is_refused(pipeline: Path, tmp_path: Path, key: str, value: Any, said: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pipeline, folder)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", low_cpu_mem_usage=False)
    assert isinstance(unet, UNet2DConditionModel)
    other: Any = UNet2DConditionModel.from_config({**unet.config, key: value})
    other.save_pretrained(folder / "unet")
    with pytest.raises(ConfigError, match=said):
        load_model(ModelConfig(str(folder)))
