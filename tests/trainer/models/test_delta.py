"""The file of changed tensors: those alone, and the base with it is the scrubbed model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from erasediff.launch.cli import main
from erasediff.trainer.config import ModelConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.delta import write_delta
from erasediff.trainer.models.hashing import weights_sha256
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_text import make_pipeline, make_xl_pipeline

UNET = "unet/diffusion_pytorch_model.safetensors"
CHANGED = ["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", "conv_out.bias"]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """(base, scrubbed)"""
    base = make_pipeline(tmp_path / "base")
    scrubbed = tmp_path / "scrubbed"
    shutil.copytree(base, scrubbed)
    weights = load_file(base / UNET)
    for name in CHANGED:
        weights[name] = weights[name] + 0.5
    save_file(weights, scrubbed / UNET, metadata={"format": "pt"})
    return base, scrubbed


def test_the_changed_tensors_are_written(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, scrubbed = folders
    words = [
        "delta",
        "--base",
        str(base),
        "--model",
        str(scrubbed),
        "--output",
        str(tmp_path / "new" / "d.safetensors"),
    ]
    assert main(words) == 0
    delta, before, after = (
        load_file(path) for path in (tmp_path / "new" / "d.safetensors", base / UNET, scrubbed / UNET)
    )
    assert sorted(delta) == sorted(CHANGED)
    assert f"delta: 2 tensors, {sum(value.numel() for value in delta.values()):,} numbers" in capsys.readouterr().out
    over = before | delta
    assert all(torch.equal(over[name], after[name]) for name in after)
    with safe_open(tmp_path / "new" / "d.safetensors", framework="pt") as file:
        about = file.metadata()
    assert about["part"] == "unet" and about["base_weights_sha256"] == weights_sha256(before)
    assert main(words) == 2, "what is there is not written over"


def test_what_has_no_delta_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, scrubbed = folders
    output = tmp_path / "d.safetensors"
    with pytest.raises(ConfigError, match="are the same: name a scrubbed model"):
        write_delta(ModelConfig(str(base)), base, output)
    with pytest.raises(ConfigError, match="has other tensors than"):
        write_delta(ModelConfig(str(base)), make_xl_pipeline(tmp_path / "xl"), output)
    with pytest.raises(ConfigError, match=r"differ in .*unet.*: name a scrubbed model"):
        write_delta(ModelConfig(str(base)), make_pipeline(tmp_path / "other", seed=1), output)
    with pytest.raises(ConfigError, match=r"holds no model_index\.json"):
        write_delta(ModelConfig(str(base)), tmp_path, output)
    with pytest.raises(ConfigError, match="no such folder"):
        write_delta(ModelConfig(str(tmp_path / "absent")), scrubbed, output)
    half = {name: value.half() for name, value in load_file(base / UNET).items()}
    whole = (scrubbed / UNET).read_bytes()
    save_file(half, scrubbed / UNET, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="or the same in another type"):
        write_delta(ModelConfig(str(base)), scrubbed, output)
    # whose file is damaged, or gone, is said
    (scrubbed / UNET).write_bytes(whole[:1000])
    with pytest.raises(ConfigError, match=r"^model = '.*scrubbed' cannot be loaded"):
        write_delta(ModelConfig(str(base)), scrubbed, output)
    (scrubbed / UNET).unlink()
    with pytest.raises(ConfigError, match=r"^model = '.*scrubbed' cannot be loaded"):
        write_delta(ModelConfig(str(base)), scrubbed, output)
    with pytest.raises(ConfigError, match=r"^base = '.*scrubbed' cannot be loaded"):
        write_delta(ModelConfig(str(scrubbed)), base, output)
    assert not output.exists()
