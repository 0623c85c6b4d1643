"""Samples from a model: seeded a sample, so that two models can be compared image by image, and spread over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor, nn

from ..config import EngineConfig, SampleConfig, SamplingConfig
from ..errors import ConfigError
from ..randomness import sample_generator
from ..ranks import collectives
from . import unet2d as models
from .unet2d import DiffusionModel

# samples of one forward pass. A chunk is made by one rank, whole: its bits do not depend on how many ranks there are
CHUNK = 64

# (x_t [B, C, H, W], t, labels [B] or none) -> the model's output [B, C, H, W]
Predict = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@torch.no_grad()
def sample(
    model: DiffusionModel, labels: Sequence[int], config: SamplingConfig, *, device: torch.device | None = None
) -> Tensor:
    """One image for each label: fp32 [N, C, H, W] in [-1, 1] on the CPU, by deterministic DDIM.

    The i-th image starts from noise that is a function of (seed, i) alone. Labels of an unconditional model are
    ignored. All ranks call it, each makes its share, and all get the whole.
    """
    device = device or torch.device("cpu")
    unet = cast(nn.Module, model.unet).to(device).eval()

    def predict(x: Tensor, t: Tensor, classes: Tensor | None) -> Tensor:
        return unet(x, t, **({} if classes is None else {"class_labels": classes})).sample

    images = torch.zeros(len(labels), model.channels, model.image_size, model.image_size, device=device)
    rank, world_size = collectives.rank(), collectives.world_size()
    for number, start in enumerate(range(0, len(labels), CHUNK)):
        if number % world_size == rank:
            chunk = labels[start : start + CHUNK]
            images[start : start + CHUNK] = denoise(predict, model, chunk, config, device=device, first=start)
    # adding the other ranks' zeros changes no bit
    return collectives.sum_(images).cpu()


@torch.no_grad()
def denoise(
    predict: Predict,
    model: DiffusionModel,
    labels: Sequence[int],
    config: SamplingConfig,
    *,
    device: torch.device,
    first: int = 0,
) -> Tensor:
    """Images number `first` … for `labels`, [N, C, H, W] in [-1, 1] on `device`, whatever weights `predict` reads.

    `model` gives the shapes, the noise schedule and the null class; its own weights are not read.
    """
    scheduler = DDIMScheduler.from_config(model.scheduler.config)
    assert isinstance(scheduler, DDIMScheduler)
    scheduler.set_timesteps(config.num_inference_steps)
    shape = (model.channels, model.image_size, model.image_size)
    noise = [
        sample_generator(config.seed, "sample", first + i).standard_normal(shape, dtype=np.float32)
        for i in range(len(labels))
    ]
    x = torch.from_numpy(np.stack(noise)).to(device)
    classes = torch.tensor(list(labels), device=device) if model.num_classes else None
    null_class = model.null_class if config.guidance_scale != 1.0 else None
    if null_class is not None:
        assert classes is not None
        classes = torch.cat([classes, torch.full_like(classes, null_class)])
    for t in scheduler.timesteps:
        output = predict(x if null_class is None else torch.cat([x, x]), t, classes)
        if null_class is not None:
            with_class, without = output.chunk(2)
            output = without + config.guidance_scale * (with_class - without)
        x = scheduler.step(output, int(t), x, return_dict=False)[0]
    return x.clamp(-1, 1)


def check_sampling(config: SamplingConfig, model: DiffusionModel, name: str = "sampling") -> None:
    """Raises ConfigError for a number that is out of range; `name` is what the options are called."""
    num_timesteps = model.scheduler.config["num_train_timesteps"]
    if not 1 <= config.num_inference_steps <= num_timesteps:
        raise ConfigError(
            f"{name}.num_inference_steps = {config.num_inference_steps}: from 1 to the model's {num_timesteps}"
        )
    if config.seed < 0:
        raise ConfigError(f"{name}.seed = {config.seed}: at least 0")
    if config.seed >= 1 << 63:
        raise ConfigError(f"{name}.seed = {config.seed}: less than 2^63")
    if not math.isfinite(config.guidance_scale):
        raise ConfigError(f"{name}.guidance_scale = {config.guidance_scale}: a finite number")


def to_pixels(images: Tensor) -> np.ndarray:
    """Images [N, C, H, W] in [-1, 1] as uint8 [N, H, W, C]; what is not finite becomes black."""
    levels = ((images + 1) * 127.5).round().clamp(0, 255).nan_to_num(0)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).numpy()


def to_grid(images: Tensor, num_columns: int, scale: int = 1) -> Image.Image:
    """Images [N, C, H, W] in [-1, 1] as one picture, row by row, a pixel between them; enlarged by `scale`."""
    pixels = to_pixels(images)
    num, height, width, channels = pixels.shape
    num_rows = -(-num // num_columns)
    canvas = np.full((num_rows * (height + 1) - 1, num_columns * (width + 1) - 1, channels), 128, np.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // num_columns) * (height + 1), (i % num_columns) * (width + 1)
        canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def run_sample(config: SampleConfig) -> Path:
    """Writes a grid of samples, a row for each class; returns the file."""
    model = models.load(config.model)
    known = [label for label in range(model.num_classes) if label != model.null_class] or [0]
    labels = list(config.labels) or known
    unknown = [label for label in labels if label not in known]
    if unknown:
        raise ConfigError(f"labels: {unknown[0]} is no class of the model ({known[0]} to {known[-1]})")
    for name in ("num_images", "scale"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} = {getattr(config, name)}: at least 1")
    check_sampling(config.sampling, model)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda', but torch sees no CUDA device: use device = 'cpu'")
    output = Path(config.output)
    if output.is_dir():
        raise ConfigError(f"output = '{output}' is a folder: name a PNG file")
    device = collectives.set_up(EngineConfig(device=config.device))
    wanted = [label for label in labels for _ in range(config.num_images)]
    images = sample(model, wanted, config.sampling, device=device)
    output.parent.mkdir(parents=True, exist_ok=True)
    to_grid(images, config.num_images, config.scale).save(output, format="PNG")
    return output
