"""A text-to-image pipeline made from nothing: a genuine folder, the same every time, and retrained with its words."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from erasediff.launch.options import read_settings
from erasediff.shards import Dataset, build, split
from erasediff.shards.sources.digits_in_ink import DIGITS, HELD_OUT_PHRASING, prompts
from erasediff.trainer.config import (
    AutoencoderConfig,
    EngineConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    ScrubConfig,
    StableDiffusionConfig,
    TrainConfig,
)
from erasediff.trainer.errors import ConfigError, Interrupted
from erasediff.trainer.evidence.classifier import read_images
from erasediff.trainer.evidence.retrained import retrain
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.text_to_image.tokenizer import known_words
from erasediff.trainer.pretrain import check, run_pretrain
from erasediff.trainer.ranks import meeting
from evidence_cases import edit_json
from PIL import Image

# whose annotations are narrower than what they take
LIBRARY: Any = diffusers
TINY = StableDiffusionConfig(
    num_tokens=12,
    text_width=16,
    block_out_channels=(8, 16),
    attention_heads=2,
    autoencoder=AutoencoderConfig(block_out_channels=(8, 8), max_train_steps=40, train_batch_size=16),
)


@pytest.fixture(scope="module")
def ink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, split/forget (the threes) and split/remain."""
    folder = tmp_path_factory.mktemp("ink")
    build("digits-in-ink", folder / "data")
    split(folder / "data", folder / "split", ["three"])
    return folder


def tiny(data: Path, output: Path, settings: StableDiffusionConfig = TINY) -> PretrainConfig:
    return PretrainConfig(
        data=str(data),
        output=str(output),
        pipeline="stable-diffusion",
        stable_diffusion=settings,
        train=TrainConfig(max_train_steps=3, train_batch_size=4),
        engine=EngineConfig(device="cpu"),
    )


@pytest.fixture(scope="module")
def run(ink: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_pretrain(tiny(ink / "data", folder))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_diffusers_loads_it_and_draws_without_erasediff(run: Path) -> None:
    code = (
        "import json, sys, numpy; from diffusers import AutoPipelineForText2Image; "
        "pipeline = AutoPipelineForText2Image.from_pretrained('.'); pipeline.set_progress_bar_config(disable=True); "
        "images = pipeline(['a red three', 'the digit nine in blue'], num_inference_steps=3).images; "
        "assert not any(name.startswith('erasediff') for name in sys.modules); "
        "names = [type(pipeline.components[n]).__name__ for n in ('unet', 'vae', 'text_encoder', 'tokenizer')]; "
        "print(json.dumps([type(pipeline).__name__, names, [i.size for i in images], dict(pipeline.scheduler.config)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=run / "model", check=True, capture_output=True, text=True)
    kind, names, sizes, scheduler = json.loads(done.stdout.splitlines()[-1])
    assert kind == "StableDiffusionPipeline" and sizes == [[16, 16], [16, 16]]
    assert names == ["UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel", "CLIPTokenizer"]
    expected = {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "clip_sample": False,
    }
    assert {key: scheduler[key] for key in expected} == expected
    assert (run / "model" / "tokenizer" / "vocab.json").exists() and (
        run / "model" / "tokenizer" / "merges.txt"
    ).exists()


def test_only_the_unet_trains(run: Path) -> None:
    before, after = content(run / "start"), content(run / "model")
    added = {name for name in after if name not in before}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"unet/diffusion_pytorch_model.safetensors"}
    assert added == {"README.md", "erasediff.json"}
    assert json.loads(after["erasediff.json"])["trained_on"][0]["name"] == "digits-in-ink"


def test_a_run_that_was_stopped_ends_in_the_same_bytes(ink: Path, run: Path, tmp_path: Path) -> None:
    """Its autoencoder, too, where it has to be trained again."""
    config = tiny(ink / "data", tmp_path / "run")

    def stop(num_done: int, model: Any) -> None:
        if num_done == 1:
            meeting.ask()

    with pytest.raises(Interrupted):
        run_pretrain(config, watch=stop)
    edit_json(tmp_path / "run" / "start" / "vae" / "config.json", scaling_factor=2.0)
    with pytest.raises(ConfigError, match="belongs to another run: weights or settings of 'vae' = "):
        run_pretrain(config)
    shutil.rmtree(tmp_path / "run" / "start")
    assert content(run_pretrain(config)) == content(run / "model")
    # it went on, and did not begin anew
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]
    assert len([*(tmp_path / "run").glob("attempt-*")]) > 1


def test_latents_are_of_unit_spread(ink: Path, run: Path) -> None:
    """By plain diffusers' convention: the pipeline's latents are the autoencoder's times `scaling_factor`."""
    images = torch.from_numpy(read_images(Dataset.open(ink / "data"), 16, 3, max_images=300).images)
    plain = LIBRARY.AutoencoderKL.from_pretrained(run / "model" / "vae")
    model = load_model(ModelConfig(str(run / "model")))
    with torch.no_grad():
        x_0 = model.encode(images)
        torch.testing.assert_close(x_0, plain.encode(images).latent_dist.mean * plain.config["scaling_factor"])
        # what the pipeline does at its end
        torch.testing.assert_close(model.decode(x_0), plain.decode(x_0 / plain.config["scaling_factor"]).sample)
    assert x_0.shape == (300, *model.latent_shape) == (300, 4, 8, 8)
    assert x_0.std().item() == pytest.approx(1, abs=0.03)
    assert plain.config["scaling_factor"] != 0.18215  # AutoencoderKL's default


def test_the_autoencoder_was_trained(ink: Path, run: Path) -> None:
    """Forty tiny steps are enough to beat the best picture of one grey; random weights do not."""
    images = torch.from_numpy(read_images(Dataset.open(ink / "data"), 16, 3, max_images=100).images)

    def error_of(autoencoder: Any) -> float:
        with torch.no_grad():
            remade = autoencoder.decode(autoencoder.encode(images).latent_dist.mean).sample
        return (remade - images).square().mean().item()

    trained = LIBRARY.AutoencoderKL.from_pretrained(run / "model" / "vae")
    assert error_of(trained) < 0.8 * images.var().item() < error_of(LIBRARY.AutoencoderKL.from_config(trained.config))


def test_the_text_encoder_tells_words_apart(run: Path) -> None:
    """Though it never trains: what it says of a word changes with that word more than with the others of its prompt."""
    pipeline = LIBRARY.StableDiffusionPipeline.from_pretrained(run / "model")

    def encoded(prompt: str) -> torch.Tensor:
        ids = pipeline.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            return pipeline.text_encoder(ids).last_hidden_state[0]

    for digit in DIGITS[1:]:
        zero, other = encoded("a red zero"), encoded(f"a red {digit}")
        assert torch.equal(zero[:3], other[:3])
        assert (zero[3] - other[3]).norm() > 0.7 * zero[3].norm()


def test_the_retrained_model_knows_the_words_it_never_read(ink: Path, run: Path, tmp_path: Path) -> None:
    scrub = ScrubConfig(
        model=ModelConfig(str(run / "model")),
        forget=str(ink / "split" / "forget"),
        remain=str(ink / "split" / "remain"),
        output=str(tmp_path / "scrub"),
    )
    remain = Dataset.open(scrub.remain)
    assert not any("three" in remain.text(i) for i in range(len(remain)))
    folder = retrain(scrub, load_model(scrub.model), tmp_path / "retrained")
    for same in ("tokenizer/vocab.json", "tokenizer/merges.txt", "text_encoder/model.safetensors"):
        assert (folder / same).read_bytes() == (run / "model" / same).read_bytes()
    # its pictures come from D_r alone, all the way
    other = "vae/diffusion_pytorch_model.safetensors"
    assert (folder / other).read_bytes() != (run / "model" / other).read_bytes()
    model = load_model(ModelConfig(str(folder)))
    for prompt in prompts([HELD_OUT_PHRASING]):
        assert model.conditions.parse(prompt.text, "anchor") == prompt.text
    with pytest.raises(ConfigError, match="anchor = 'a red ten': the model's tokenizer does not know 'ten'"):
        model.conditions.parse("a red ten", "anchor")
    known = known_words(LIBRARY.StableDiffusionPipeline.from_pretrained(folder).tokenizer)
    assert known is not None and "three" in known and "ten" not in known


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": ("a", "red")}, r"says zero, which stable_diffusion\.words does not have: name it"),
        ({"num_tokens": 7}, r"takes 8 tokens, stable_diffusion\.num_tokens = 7: set it to 8 or more"),
        ({"block_out_channels": (8, 12)}, "block_out_channels has 12: not a multiple of stable_diffusion.norm_num_gro"),
        ({"block_out_channels": ()}, "stable_diffusion.block_out_channels is empty"),
        ({"block_out_channels": (8,) * 5}, "halve a picture 5 times: images of 16 pixels are not divisible by 32"),
        ({"attention_blocks": 3}, "stable_diffusion.attention_blocks = 3: the UNet has 2 resolutions"),
        ({"text_heads": 3}, "stable_diffusion.text_width = 16: not a multiple of stable_diffusion.text_heads = 3"),
        (
            {"autoencoder": AutoencoderConfig(block_out_channels=(8, 12))},
            r"stable_diffusion\.autoencoder\.block_out_channels has 12",
        ),
    ],
)
def test_what_cannot_work_is_refused(ink: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        check(tiny(ink / "data", tmp_path / "run", dataclasses.replace(TINY, **changes)))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_data_it_cannot_be_told_by(ink: Path, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sample digit-00000 has no caption, and pipeline = 'stable-diffusion' is"):
        check(tiny(digits / "data", tmp_path / "run"))
    with pytest.raises(ConfigError, match="classes: a model that is told captions has none: leave it out"):
        check(dataclasses.replace(tiny(ink / "data", tmp_path / "run"), classes=("zero",)))
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    (tmp_path / "table.jsonl").write_text('{"path": "0.png", "caption": "black"}\n')
    build(tmp_path / "table.jsonl", tmp_path / "captioned")
    with pytest.raises(ConfigError, match="has no classes: pretrain makes class-conditional models, or with"):
        check(dataclasses.replace(tiny(tmp_path / "captioned", tmp_path / "run"), pipeline="unet2d"))


def test_the_pipeline_decides_how_long_it_trains(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('data = "d"\noutput = "o"\n[train]\nseed = 4\n')
    default, told = (
        read_settings(PretrainConfig, [str(tmp_path / "run.toml"), *more], prog="pretrain")
        for more in ([], ["--pipeline", "stable-diffusion", "--optimizer.learning-rate", "1e-3"])
    )
    assert default.pipeline == "unet2d" and default.train == TrainConfig(max_train_steps=900, seed=4)
    expected = PretrainConfig("d", "o", pipeline="stable-diffusion")
    assert told.train == dataclasses.replace(expected.train, seed=4) != default.train
    assert told.optimizer == dataclasses.replace(expected.optimizer, learning_rate=1e-3)
    assert isinstance(told.optimizer, OptimizerConfig)
