"""Samples from a saved pipeline: seeded a sample, so that two models can be compared image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .models import load_for_sampling
from .randomness import sample_generator


@torch.no_grad()
def sample(
    folder: Path,
    labels: Sequence[int],
    *,
    seed: int = 0,
    null_class: int | None = None,
    guidance_scale: float = 1.5,
    num_inference_steps: int = 25,
    batch_size: int = 256,
    device: torch.device | None = None,
) -> Tensor:
    """One image for each label: fp32 [N, C, H, W] in [-1, 1] on the CPU, by deterministic DDIM.

    The i-th image starts from noise that is a function of (seed, i) alone. guidance_scale is w of
    ε = ε_∅ + w (ε_c - ε_∅); without a null class, or with 1, there is no guidance. Labels of an unconditional model
    are ignored.
    """
    device = device or torch.device("cpu")
    unet, scheduler = load_for_sampling(folder, device)
    scheduler.set_timesteps(num_inference_steps)
    size = unet.config["sample_size"]
    shape = (unet.config["in_channels"], size, size)
    is_conditional = bool(unet.config["num_class_embeds"])
    is_guided = is_conditional and null_class is not None and guidance_scale != 1.0
    images = []
    for start in range(0, len(labels), batch_size):
        chunk = labels[start : start + batch_size]
        noise = np.stack(
            [
                sample_generator(seed, "sample", start + i).standard_normal(shape, dtype=np.float32)
                for i in range(len(chunk))
            ]
        )
        x = torch.from_numpy(noise).to(device)
        classes = torch.tensor(chunk, device=device)
        if is_guided:
            classes = torch.cat([classes, torch.full_like(classes, null_class)])
        conditions = {"class_labels": classes} if is_conditional else {}
        for t in scheduler.timesteps:
            output = unet(torch.cat([x, x]) if is_guided else x, t, **conditions).sample
            if is_guided:
                with_class, without = output.chunk(2)
                output = without + guidance_scale * (with_class - without)
            x = scheduler.step(output, t, x).prev_sample
        images.append(x.clamp(-1, 1).cpu())
    return torch.cat(images)


def to_grid(images: Tensor, num_columns: int, scale: int = 1) -> Image.Image:
    """Images [N, C, H, W] in [-1, 1] as one picture, row by row, with a pixel between them; each enlarged by `scale`."""
    pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    num, height, width, channels = pixels.shape
    num_rows = -(-num // num_columns)
    canvas = np.full((num_rows * (height + 1) - 1, num_columns * (width + 1) - 1, channels), 128, np.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // num_columns) * (height + 1), (i % num_columns) * (width + 1)
        canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
