"""Where the training of a text-to-image model begins: a pipeline's folder, whole but for what its UNet will learn."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL

from ....shards.dataset import Dataset
from ....shards.errors import shorten
from ...config import ModelConfig, StableDiffusionConfig
from ...errors import ConfigError
from ...files import open_up, sync, sync_tree
from ..families import load_model
from ..model import Model
from .autoencoder import make_autoencoder, train_autoencoder
from .parts import SECTION, check_parts, write_pipeline
from .tokenizer import split_into_words, words_of


def with_words(settings: StableDiffusionConfig, data: Dataset) -> StableDiffusionConfig:
    """With the words of its captions where none are given: a model retrained on a part of `data` must know them all."""
    return dataclasses.replace(settings, words=words_of(settings.words or data.captions))


def plan_start(settings: StableDiffusionConfig, data: Dataset, *, seed: int) -> Model:
    """The model that would train, its autoencoder without training and its folder gone: for checks.

    data: images of one square size. Raises ConfigError for settings and captions that cannot work.
    """
    shape = data.image_shape
    assert shape is not None
    check_parts(settings, image_size=shape.height)
    _check_captions(settings, data)
    with TemporaryDirectory() as folder:
        _write(settings, Path(folder), _autoencoder(settings, data, seed), data, seed)
        return load_model(ModelConfig(folder))


def write_start(
    settings: StableDiffusionConfig,
    data: Dataset,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    on_step: Callable[[int, float], None],
) -> None:
    """Trains the autoencoder and writes the pipeline, unless it is there; a function of settings, data and seed.

    `on_step`: as in `train_autoencoder`.
    """
    if folder.exists():
        return
    autoencoder = _autoencoder(settings, data, seed)
    train_autoencoder(autoencoder, settings.autoencoder, data, seed=seed, device=device, on_step=on_step)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write(settings, partial, autoencoder, data, seed)
    open_up(partial)
    sync_tree(partial)
    partial.rename(folder)
    sync(folder.parent)


def _autoencoder(settings: StableDiffusionConfig, data: Dataset, seed: int) -> AutoencoderKL:
    assert data.image_shape is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_autoencoder(
            settings.autoencoder, image_size=data.image_shape.height, channels=data.image_shape.channels
        )


def _write(settings: StableDiffusionConfig, folder: Path, autoencoder: AutoencoderKL, data: Dataset, seed: int) -> None:
    assert data.image_shape is not None
    write_pipeline(settings, folder, autoencoder=autoencoder, image_size=data.image_shape.height, seed=seed)


def _check_captions(settings: StableDiffusionConfig, data: Dataset) -> None:
    """Raises ConfigError for a sample without caption, and for a caption that the tokenizer could not read whole."""
    known = frozenset(settings.words)
    for i, caption in enumerate(data.captions):
        where = f"data = '{data.path}': sample {data.key(i)}"
        words = split_into_words(caption)
        if not words:
            raise ConfigError(
                f"{where} has no caption, and pipeline = 'stable-diffusion' is told captions: give it one"
            )
        if unknown := [word for word in words if word not in known]:
            raise ConfigError(f"{where} says {shorten(unknown)}, which {SECTION}.words does not have: name it, too")
        if len(words) + 2 > settings.num_tokens:
            raise ConfigError(
                f"{where} takes {len(words) + 2} tokens, {SECTION}.num_tokens = {settings.num_tokens}: set it to "
                f"{len(words) + 2} or more"
            )
