"""Models on `meta`, from a folder that holds configuration alone, beside the same loaded whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_text
import torch
from erasediff.trainer.config import ModelConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.families import load_model, outline_model
from erasediff.trainer.models.model import Model

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["unet2d", "stable-diffusion", "stable-diffusion-xl"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """A pipeline loaded, and its outline from what is left without weights and tokenizers."""
    folder = tmp_path_factory.mktemp("outline")
    make: dict[str, Any] = {"unet2d": tiny.make_pipeline, "stable-diffusion": tiny_text.make_pipeline}
    whole = make.get(request.param, tiny_text.make_xl_pipeline)(folder / "whole")

    def left_out(directory: str, names: list[str]) -> list[str]:
        return [name for name in names if name.endswith((".safetensors", ".txt")) or name.startswith("tokenizer")]

    shutil.copytree(whole, folder / "outline", ignore=left_out)
    return load_model(ModelConfig(str(whole))), outline_model(ModelConfig(str(folder / "outline")))


def shapes(model: Model) -> dict[str, tuple[torch.Size, bool]]:
    parts = {"module": model.module, **model.frozen_parts}
    found = [(f"{part}.{name}", v) for part, module in parts.items() for name, v in module.named_parameters()]
    return {name: (value.shape, value.requires_grad) for name, value in found}


def test_an_outline_has_the_models_shapes_and_nothing_stored(pair: tuple[Model, Model]) -> None:
    whole, outline = pair
    assert shapes(outline) == shapes(whole)
    assert {v.device.type for v in (*outline.module.parameters(), *outline.module.buffers())} == {"meta"}
    assert (outline.latent_shape, outline.image_size, outline.channels) == (
        whole.latent_shape,
        whole.image_size,
        whole.channels,
    )
    assert not outline.module.training


def test_a_blank_pass_has_the_shapes_of_a_real_one(pair: tuple[Model, Model]) -> None:
    whole, outline = pair
    x_t, t, told = outline.blank_pass(3)
    real_told = whole.told([whole.conditions.known()[0]] * 3, CPU)
    assert {name: (v.shape, v.dtype) for name, v in told.items()} == {
        name: (v.shape, v.dtype) for name, v in real_told.items()
    }
    with torch.no_grad():
        output = whole.predict(whole.module, torch.randn(x_t.shape), torch.zeros(t.shape, dtype=t.dtype), real_told)
        blank = outline.predict(outline.module, x_t, t, told)
    assert (blank.shape, blank.dtype, blank.device.type) == (output.shape, output.dtype, "meta")
    assert t.dtype == torch.from_numpy(whole.schedule.timestep_type.type([0])).dtype


def test_an_outline_is_refused_as_the_model_is(base_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no class of the model"):
        outline_model(ModelConfig(str(base_model), null_class=99))
    with pytest.raises(ConfigError, match="holds no model_index"):
        outline_model(ModelConfig(str(tmp_path)))


def test_a_family_that_has_no_outline_says_so(toy_family: Path) -> None:
    with pytest.raises(ConfigError, match=r"its family, toy_family, has no outline\(\)"):
        outline_model(ModelConfig(str(toy_family / "model")))
