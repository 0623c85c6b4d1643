"""The published folder: diffusers loads it, and what did not train is byte for byte what it was."""

from __future__ import annotations

import filecmp
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import (
    EngineConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
    UNetConfig,
)
from erasediff.trainer.pretrain import run_pretrain
from erasediff.trainer.scrubbing import run_scrub
from safetensors.torch import load_file, save_file
from tiny import make_pipeline, tiny_config


def weights(pipeline: Path) -> dict[str, torch.Tensor]:
    return load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def finished(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder."""
    config = tiny_config(digits, base_model, tmp_path_factory.mktemp("runs") / "run")
    run_scrub(config)
    return Path(config.output)


def test_only_the_trained_weights_and_the_card_change(finished: Path, base_model: Path) -> None:
    before, after = weights(base_model), weights(finished / "model")
    assert before.keys() == after.keys()
    assert all(before[name].dtype == after[name].dtype for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for path in base_model.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert filecmp.cmp(path, finished / "model" / path.relative_to(base_model), shallow=False), path


def test_who_may_read_a_new_file_may_read_the_model(digits: Path, base_model: Path, tmp_path: Path) -> None:
    shutil.copytree(base_model, tmp_path / "base")
    for path in (tmp_path / "base").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o400)
    model = run_scrub(tiny_config(digits, tmp_path / "base", tmp_path / "run"))
    (tmp_path / "new").touch()
    assert {path.stat().st_mode for path in model.rglob("*") if path.is_file()} == {(tmp_path / "new").stat().st_mode}
    assert all(path.stat().st_mode & 0o200 for path in model.rglob("*") if path.is_dir())


def test_the_model_card_samples_as_it_stands_in_diffusers_without_erasediff(finished: Path) -> None:
    card = (finished / "model" / "README.md").read_text()
    assert "\n# run\n" in card
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    assert "erasediff" not in code
    code += "\nassert len(images) == 16 and images[0].size == (8, 8)\n"
    code += "import sys; assert not any(name.startswith('erasediff') for name in sys.modules)\n"
    code += "from diffusers import DDPMPipeline; "
    code += f"print(type(DDPMPipeline.from_pretrained({str(finished / 'model')!r}).unet).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=finished / "model", check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "UNet2DModel"


def test_other_forms_of_the_trained_weights_do_not_survive(digits: Path, base_model: Path, tmp_path: Path) -> None:
    """A variant or a pickled copy in the output would still hold what was to be erased."""
    base = tmp_path / "base"
    shutil.copytree(base_model, base)
    original = weights(base)
    save_file(original, base / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    torch.save(original, base / "unet" / "diffusion_pytorch_model.bin")
    (base / "unet" / "notes.txt").write_text("kept")
    for left_by_training in ("checkpoint-500/unet", "unet_ema", "unet/older"):
        (base / left_by_training).mkdir(parents=True)
        save_file(original, base / left_by_training / "diffusion_pytorch_model.safetensors")
    model = run_scrub(tiny_config(digits, base, tmp_path / "run"))
    assert sorted(path.name for path in (model / "unet").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "notes.txt",
    ]
    written = ["README.md", "erasediff.json", "model_index.json", "scheduler", "unet"]
    assert sorted(path.name for path in model.iterdir()) == written


def test_tensors_keep_their_type(digits: Path, base_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_model, base)
    path = base / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value.half() for name, value in weights(base).items()}, path, metadata={"format": "pt"})
    model = run_scrub(tiny_config(digits, base, tmp_path / "run"))
    assert {value.dtype for value in weights(model).values()} == {torch.float16}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("num_classes", [10, 11, None])
def test_foreign_base_models_scrub(digits: Path, tmp_path: Path, prediction_type: str, num_classes: int | None) -> None:
    base = make_pipeline(tmp_path / "base", num_classes=num_classes, prediction_type=prediction_type)  # pyright: ignore
    method = EraseDiffConfig(target="rl" if num_classes else "noise")
    config = tiny_config(digits, base, tmp_path / "run", method=method, null_class=10 if num_classes == 11 else None)
    model = run_scrub(config)
    assert all(value.isfinite().all() for value in weights(model).values())
    DDPMPipeline.from_pretrained(model)


@pytest.mark.parametrize(("stage", "precision"), [(3, "fp32"), (2, "bf16")])
def test_a_model_made_here_is_saved_whole_and_unrounded(
    digits: Path, tmp_path: Path, stage: Any, precision: Any
) -> None:
    config = PretrainConfig(
        data=str(digits / "data"),
        output=str(tmp_path / "run"),
        # large enough that ZeRO-3 does not keep every tensor gathered
        unet=UNetConfig(block_out_channels=(128, 128)),
        train=TrainConfig(max_train_steps=1, train_batch_size=4),
        optimizer=OptimizerConfig(),
        engine=EngineConfig(device="cpu", zero_stage=stage, precision=precision),
    )
    saved = weights(run_pretrain(config))
    assert {value.dtype for value in saved.values()} == {torch.float32}
    assert any((value != value.bfloat16().float()).any() for value in saved.values())


def test_tensors_that_do_not_train_are_byte_identical(digits: Path, tmp_path: Path) -> None:
    """The random frequencies of a Fourier time embedding are a parameter that takes no gradient."""
    torch.manual_seed(2)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=11,
        time_embedding_type="fourier",
    )
    base = tmp_path / "base"
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(base)
    frozen = [name for name, parameter in unet.named_parameters() if not parameter.requires_grad]
    assert frozen
    scrubbed = weights(run_scrub(tiny_config(digits, base, tmp_path / "run")))
    before = weights(base)
    assert all(torch.equal(before[name], scrubbed[name]) for name in frozen)
    assert not torch.equal(before["conv_out.weight"], scrubbed["conv_out.weight"])
