"""Latents that lie beside drawn pictures: read in training as they would be made, or refused."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from erasediff.shards import Dataset, Stream
from erasediff.shards.writing.assemble import complete, save_index
from erasediff.trainer.config import (
    EngineConfig,
    ModelConfig,
    ScrubConfig,
    TrainConfig,
)
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.methods.erasediff import EraseDiffConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.models.fitting import fit
from erasediff.trainer.objectives.diffusion import DiffusionObjective
from erasediff.trainer.objectives.targets import Samples
from erasediff.trainer.scrubbing import run_scrub
from safetensors.torch import load_file
from tiny import make_pipeline as make_pixel_pipeline
from tiny_text import make_pipeline

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_training_reads_latents_as_it_would_encode(given: Path, drawn: Path) -> None:
    data = Dataset.open(drawn / "data")
    batches = []
    for reads in (True, False):
        model = load_model(ModelConfig(str(given / "model"), read_latents=reads))
        fitted = fit(data, model).data
        assert (fitted.manifest.latents is not None) == reads
        stream = Stream(fitted, seed=1, batch_size=6, dtype="uint8", image_size=16, latents=reads)
        objective = DiffusionObjective(model, torch.device("cpu"), seed=1, label_drop=0.5)
        (batch,) = objective.remain_batches(stream.batch(0))
        batches.append(batch)
    stored, online = batches
    torch.testing.assert_close(stored.noised.x_0, online.noised.x_0, rtol=0, atol=1e-5)
    torch.testing.assert_close(stored.noised.x_t, online.noised.x_t, rtol=0, atol=1e-5)
    torch.testing.assert_close(stored.target, online.target, rtol=0, atol=1e-5)
    assert online.noised.x_0.std() > 0.05, "the pictures are something"


def test_neighbours_are_near_and_read_in_latents(given: Path, drawn: Path, tmp_path: Path) -> None:
    """x_k is what an autoencoder most probably makes of the image, stored or made now."""
    data, targets = Dataset.open(drawn / "data"), []
    is_forgotten = data.labels == 0
    for reads in (True, False):
        model = load_model(ModelConfig(str(given / "model"), read_latents=reads))
        forget, remain = (fit(data.only(rows), model).data for rows in (is_forgotten, ~is_forgotten))
        method = EraseDiffConfig(target="neighbours", num_neighbours=int((~is_forgotten).sum()), anchor="a red two")
        samples = Samples(forget, remain, tmp_path)
        made = DiffusionObjective(model, torch.device("cpu"), seed=1, label_drop=0.5, method=method, samples=samples)
        stream = Stream(forget, seed=1, batch_size=6, dtype="uint8", image_size=16, latents=reads)
        targets.append(made.forget_batches(stream.batch(0))[0].prepared)
    # of all that remain, so that the order does not matter
    torch.testing.assert_close(targets[0], targets[1], rtol=0, atol=1e-3)
    assert targets[0].std() > 0.5
    nearest = [np.load(path) for path in tmp_path.glob("neighbours-*.npy")]
    means = np.stack([data.latents(i)[:4].ravel() for i in range(len(data))]).astype(np.float64)
    apart = np.linalg.norm(means[is_forgotten][:, None] - means[~is_forgotten], axis=2)
    expected = np.argsort(apart, axis=1, kind="stable")
    assert [np.array_equal(found, expected) for found in nearest].count(True) == 1 and len(nearest) == 2


def test_a_scrub_reads_the_latents(given: Path, drawn: Path, tmp_path: Path) -> None:
    """Of pictures whose latents are another picture's: with them it trains on that one, without them on its own."""
    data = Dataset.open(drawn / "data")
    tar = drawn / "data" / data.manifest.shards[0].path
    index = data.index.copy()
    index["latents_offset"] = np.roll(index["latents_offset"], 1)
    for side, rows in (("forget", data.labels == 0), ("remain", data.labels != 0)):
        folder = tmp_path / side
        folder.mkdir()
        shard = dataclasses.replace(
            data.manifest.shards[0], path=os.path.relpath(tar, folder), num_samples=int(rows.sum())
        )
        save_index(folder, index[rows])
        complete(
            folder,
            name=side,
            classes=data.classes,
            image=data.image_shape,
            index=index[rows],
            shards=[shard],
            latents=data.manifest.latents,
        )
    found = {}
    for name, forget, reads in (
        ("stored", tmp_path / "forget", True),
        ("online", tmp_path / "forget", False),
        ("own", drawn / "split" / "forget", False),
    ):
        model = ModelConfig(str(given / "model"), read_latents=reads)
        train = TrainConfig(max_train_steps=1, train_batch_size=4, layers=("xattn",), max_loss_r_ratio=None)
        config = ScrubConfig(model, str(forget), str(forget.with_name("remain")), str(tmp_path / name), train=train)
        weights = load_file(run_scrub(dataclasses.replace(config, engine=EngineConfig(device="cpu"))) / WEIGHTS)
        found[name] = weights["mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"]
    assert torch.equal(found["online"], found["own"]) and not torch.equal(found["online"], found["stored"])


def test_latents_of_another_autoencoder_are_refused(given: Path, drawn: Path, tmp_path: Path) -> None:
    data = Dataset.open(drawn / "data")
    other = load_model(ModelConfig(str(make_pipeline(tmp_path / "other", seed=1))))
    with pytest.raises(ConfigError, match=r"latents that another autoencoder made .*set model.read_latents = false"):
        fit(data, other)
    larger = load_model(ModelConfig(str(given / "model"), image_size=32))
    with pytest.raises(ConfigError):
        fit(data, larger)
    larger = load_model(ModelConfig(str(given / "model"), image_size=32, convert_images=True))
    with pytest.raises(ConfigError, match=r"latents of shape \[8, 8, 8\], the model works on \[8, 16, 16\]"):
        fit(data, larger)
    assert fit(data, dataclasses.replace(larger, reads_latents=False)).data.manifest.latents is None
    for name, is_another in (("decoder.conv_out", False), ("encoder.conv_in", True), ("quant_conv", True)):
        changed: Any = load_model(ModelConfig(str(given / "model")))
        torch.nn.init.zeros_(changed.vae.get_submodule(name).weight)
        if is_another:
            with pytest.raises(ConfigError, match="latents that another autoencoder made"):
                fit(data, changed)
        else:
            assert fit(data, changed).data.manifest.latents is not None, "another decoder encodes alike"


def test_a_pixel_model_reads_images(drawn: Path, tmp_path: Path) -> None:
    """Whatever lies beside them."""
    pixels = make_pixel_pipeline(tmp_path / "pixels", num_classes=3, channels=3, size=16)
    model, data = load_model(ModelConfig(str(pixels))), Dataset.open(drawn / "data")
    assert model.encoder_sha256 is None and data.manifest.latents is not None
    assert fit(data, model).data.manifest.latents is None
