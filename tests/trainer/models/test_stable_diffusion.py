"""Stable Diffusion pipelines as models: what they are told, how images become latents, what is sampled and saved.

The reference is diffusers' own pipelines.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoPipelineForText2Image, UNet2DConditionModel
from erasediff.trainer.config import ModelConfig, SamplingConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.layers import chosen
from erasediff.trainer.models.sampling import sample
from erasediff.trainer.randomness import sample_generator
from erasediff.trainer.run.provenance import frozen_sha256
from evidence_cases import edit_json
from safetensors.torch import load_file, save_file
from tiny_text import make_pipeline, make_xl_pipeline
from torch import Tensor

PROMPTS = ["a red three", "an image of a blue one"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pipelines")
    return {
        "epsilon": make_pipeline(folder / "epsilon"),
        "v": make_pipeline(folder / "v", prediction_type="v_prediction"),
        "xl": make_xl_pipeline(folder / "xl"),
    }


def _load(folder: Path, **options: Any) -> Any:
    return load_model(ModelConfig(str(folder), **options))


def _diffusers(folder: Path) -> Any:
    pipeline = AutoPipelineForText2Image.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("kind", ["epsilon", "v", "xl"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_samples_are_those_of_diffusers(pipelines: dict[str, Path], kind: str, guidance_scale: float) -> None:
    model = _load(pipelines[kind])
    ours = sample(model, PROMPTS, SamplingConfig(num_inference_steps=4, guidance_scale=guidance_scale, seed=5))
    noise = [sample_generator(5, "sample", i).standard_normal((4, 8, 8), dtype=np.float32) for i in range(2)]
    theirs = _diffusers(pipelines[kind])(
        PROMPTS,
        height=16,
        width=16,
        latents=torch.from_numpy(np.stack(noise)),
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        output_type="pt",
    ).images
    torch.testing.assert_close(ours / 2 + 0.5, theirs, rtol=0, atol=2e-6)
    assert theirs.std() > 0.05, "the two images are something"


@pytest.mark.parametrize("kind", ["epsilon", "xl"])
def test_latents_are_drawn_from_the_posterior(pipelines: dict[str, Path], kind: str) -> None:
    model = _load(pipelines[kind])
    vae = AutoencoderKL.from_pretrained(pipelines[kind], subfolder="vae", low_cpu_mem_usage=False)
    assert isinstance(vae, AutoencoderKL)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        posterior: Any = vae.encode(images).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        torch.testing.assert_close(model.encode(images), 0.5 * posterior.mode(), rtol=0, atol=1e-6)
        drawn = model.encode(images, [np.random.default_rng(i) for i in range(3)])
        noise = [np.random.default_rng(i).standard_normal((4, 8, 8), dtype=np.float32) for i in range(3)]
        expected = 0.5 * (posterior.mean + posterior.std * torch.from_numpy(np.stack(noise)))
        torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-6)
        decoded: Tensor = vae.decode(posterior.mode()).sample  # pyright: ignore[reportAttributeAccessIssue]
        torch.testing.assert_close(model.decode(model.encode(images)), decoded, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "xl"])
def test_a_prompt_is_told_as_diffusers_tells_it(pipelines: dict[str, Path], kind: str) -> None:
    model, pipeline = _load(pipelines[kind]), _diffusers(pipelines[kind])
    told = model.told([*PROMPTS, ""], CPU)
    encoded = pipeline.encode_prompt(PROMPTS, CPU, 1, kind != "xl") if kind != "xl" else pipeline.encode_prompt(PROMPTS)
    with_prompt, without = encoded[:2]
    torch.testing.assert_close(told["encoder_hidden_states"][:2], with_prompt, rtol=0, atol=1e-6)
    torch.testing.assert_close(told["encoder_hidden_states"][2], without[0], rtol=0, atol=1e-6)
    if kind == "xl":
        torch.testing.assert_close(told["text_embeds"][:2], encoded[2], rtol=0, atol=1e-6)
        assert not told["text_embeds"][2].any(), "XL's null prompt is zeros"
        assert told["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 3
    alone = model.told(["a red three"], CPU)
    assert all(torch.equal(value[0], told[name][0]) for name, value in alone.items())


@pytest.mark.parametrize("kind", ["epsilon", "xl"])
def test_what_is_saved(pipelines: dict[str, Path], tmp_path: Path, kind: str) -> None:
    given = tmp_path / "given"
    shutil.copytree(pipelines[kind], given)
    trained = load_file(given / "unet" / "diffusion_pytorch_model.safetensors")
    # what repositories hold in it and beside it: the average, a variant, another format, a checker that is never loaded
    stored = given / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(trained | {f"ema.{name}": value.clone() for name, value in trained.items()}, stored)
    save_file(trained, given / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    save_file(trained, given / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    torch.save(trained, given / "unet" / "diffusion_pytorch_model.bin")
    for name in ("model.onnx_data", "unet.gguf", "weights.npz", "w.pkl", "diffusion_pytorch_model.safetensors.orig"):
        save_file(trained, given / "unet" / name)
    (given / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text("{}")
    save_file(trained, given / "v1-5-pruned.safetensors")
    (given / "safety_checker").mkdir()
    (given / "safety_checker" / "model.safetensors").write_bytes(b"as it is")
    index = json.loads((given / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (given / "model_index.json").write_text(json.dumps(index))

    model = _load(given)
    model.check_saveable()
    weights = {name: value.detach() + 1 for name, value in chosen(model.module, ["xattn"], "train.layers").items()}
    model.save(weights, tmp_path / "saved")

    changed = load_file(tmp_path / "saved" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {name for name in trained if not torch.equal(trained[name], changed[name])} == set(weights)
    assert all(torch.equal(changed[name], value) for name, value in weights.items())
    originals = {value.numpy().tobytes() for name, value in trained.items() if name in weights}
    for path in (path for path in (tmp_path / "saved").rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not any(one in content for one in originals), f"{path} holds original weights"
        if path.parent.name != "unet":
            assert content == (given / path.relative_to(tmp_path / "saved")).read_bytes()
    written = {path.name for path in (tmp_path / "saved" / "unet").iterdir()}
    assert written == {"config.json", "diffusion_pytorch_model.safetensors"}
    kept = {path.relative_to(tmp_path / "saved").parts[0] for path in (tmp_path / "saved").rglob("*")}
    assert kept == {name for name, value in index.items() if isinstance(value, list) and value[0]} | {
        "model_index.json"
    }


def test_of_shards_and_a_whole_file_the_shards_are_read_and_written(pipelines: dict[str, Path], tmp_path: Path) -> None:
    """As diffusers has it: a file beside the index that it does not read is not what is published."""
    given = tmp_path / "given"
    shutil.copytree(pipelines["epsilon"], given)
    whole = given / "unet" / "diffusion_pytorch_model.safetensors"
    zeros = {name: torch.zeros_like(value) for name, value in load_file(whole).items()}
    UNet2DConditionModel.from_pretrained(given, subfolder="unet").save_pretrained(given / "unet", max_shard_size="40KB")
    save_file(zeros, whole, metadata={"format": "pt"})
    assert len([*(given / "unet").glob("*-of-*")]) > 1
    model = _load(given)
    weights = {name: value.detach() + 1 for name, value in chosen(model.module, ["xattn"], "train.layers").items()}
    model.check_saveable()
    model.save(weights, tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved" / "unet").iterdir()) == ["config.json", whole.name]
    saved = load_file(tmp_path / "saved" / "unet" / whole.name)
    original: dict[str, torch.Tensor] = {**model.module.state_dict()}
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], weights.get(name, original[name])) for name in saved)
    assert any(value.any() for name, value in saved.items() if name not in weights)


def test_a_variant_is_read_and_written(pipelines: dict[str, Path], tmp_path: Path) -> None:
    given = tmp_path / "given"
    shutil.copytree(pipelines["epsilon"], given)
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        whole = given / part / f"{name}.safetensors"
        half = {name: value.half() for name, value in load_file(whole).items()}
        save_file(half, given / part / f"{name}.fp16.safetensors", metadata={"format": "pt"})
        whole.unlink()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        _load(given)
    model = _load(given, variant="fp16")
    weights = {name: value.detach() + 1 for name, value in model.module.named_parameters()}
    model.save(weights, tmp_path / "saved")
    saved = UNet2DConditionModel.from_pretrained(
        tmp_path / "saved", subfolder="unet", variant="fp16", low_cpu_mem_usage=False
    )
    assert isinstance(saved, UNet2DConditionModel)
    for name, value in saved.named_parameters():
        assert torch.equal(value, weights[name].half().float())
    assert not (tmp_path / "saved" / "unet" / "diffusion_pytorch_model.safetensors").exists()


def test_prompts_that_the_tokenizer_cannot_say(pipelines: dict[str, Path]) -> None:
    model = _load(pipelines["epsilon"])
    conditions = model.conditions
    assert conditions.parse("a red three", "method.anchor") == "a red three"
    with pytest.raises(ConfigError, match=r"method\.anchor = 'a 3 of red': the model's tokenizer does not know '3'"):
        conditions.parse("a 3 of red", "method.anchor")
    with pytest.raises(ConfigError, match=r"method\.anchor = 3: the model is told prompts, not numbers"):
        conditions.parse(3, "method.anchor")
    long = " ".join("a" * 14)
    assert conditions.parse(long, "method.anchor") == long
    with pytest.raises(
        ConfigError, match=r"has 15 tokens, the model takes 14: shorten it, or set model.truncate_prompts"
    ):
        conditions.parse(long + " a", "method.anchor")
    cut = _load(pipelines["epsilon"], truncate_prompts=True)
    assert cut.conditions.parse(long + " a", "method.anchor")
    assert dataclasses.replace(model).told([long + " a"], CPU)["encoder_hidden_states"].shape == (1, 16, 16)


def test_what_is_recorded_of_frozen_parts(pipelines: dict[str, Path], tmp_path: Path) -> None:
    model = _load(pipelines["xl"])
    before = frozen_sha256(model)
    encoders = {"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}
    assert set(before) == {"unet", "vae", *encoders, "schedule", "null prompt"}
    model.told(PROMPTS, CPU)
    assert frozen_sha256(model) == before == frozen_sha256(_load(pipelines["xl"])), "being used changes nothing"
    other = tmp_path / "other"
    shutil.copytree(pipelines["xl"], other)
    edit_json(other / "vae" / "config.json", scaling_factor=0.25)
    words = other / "tokenizer" / "tokenizer.json"
    how = json.loads(words.read_text())
    vocabulary = how["model"]["vocab"]
    vocabulary["a</w>"], vocabulary["b</w>"] = vocabulary["b</w>"], vocabulary["a</w>"]
    words.write_text(json.dumps(how))
    changed = frozen_sha256(_load(other))
    assert {name for name in before if before[name] != changed[name]} == {"vae", "tokenizer"}


@pytest.mark.parametrize(
    ("file", "values", "changes", "encodes_otherwise"),
    [
        ("model_index.json", {"force_zeros_for_empty_prompt": False}, {"null prompt"}, False),
        ("text_encoder_2/config.json", {"hidden_act": "gelu"}, {"text_encoder_2"}, False),
        ("unet/config.json", {"flip_sin_to_cos": False}, {"unet"}, False),
        ("vae/config.json", {"norm_num_groups": 2}, {"vae"}, True),
        ("vae/config.json", {"scaling_factor": 0.25}, {"vae"}, False),
        ("vae/config.json", {"_diffusers_version": "0.1.0"}, set(), False),
        ("text_encoder/config.json", {"transformers_version": "4.0.0", "architectures": ["Other"]}, set(), False),
    ],
)
def test_settings_that_change_what_is_computed_change_a_hash(
    pipelines: dict[str, Path],
    tmp_path: Path,
    file: str,
    values: dict[str, Any],
    changes: set[str],
    encodes_otherwise: bool,
) -> None:
    other = tmp_path / "other"
    shutil.copytree(pipelines["xl"], other)
    edit_json(other / file, **values)
    before, after = _load(pipelines["xl"]), _load(other)
    hashes, found = frozen_sha256(before), frozen_sha256(after)
    assert {name for name in hashes if hashes[name] != found[name]} == changes
    assert (before.encoder_sha256 != after.encoder_sha256) == encodes_otherwise


@pytest.mark.parametrize("kind", ["epsilon", "xl"])
def test_the_example_runs_as_it_stands(
    pipelines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(pipelines[kind])
    names: dict[str, Any] = {}
    exec(_load(pipelines[kind]).example().replace("prompts, ", "prompts, num_inference_steps=2, "), names)
    assert names["prompts"] == ["a photo"]
    assert [image.size for image in names["images"]] == [(16, 16)]
