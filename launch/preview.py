"""Samples in the terminal while a model learns or forgets: a row of small images every few steps."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..trainer.config import SamplingConfig, UNetConfig
from ..trainer.engine.sharded_model import ShardedModel
from ..trainer.models.conditions import Condition
from ..trainer.models.families import unet2d
from ..trainer.models.model import Model
from ..trainer.models.pictures import to_pixels
from ..trainer.models.sampling import denoise
from ..trainer.ranks.collectives import is_main

_SHADES = " ░▒▓█"
_SAMPLING = SamplingConfig(num_inference_steps=10)


class Preview:
    """A `Watch` of the loop that shows one image of each condition, from the same noise every time.

    names: of the conditions, above the images. every: steps between rows. All ranks call it; the first one prints.
    """

    def __init__(self, shape: Model, conditions: Sequence[Condition], names: Sequence[str], *, every: int):
        self._shape = shape
        self._conditions = conditions
        self._names = names
        self._every = every
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._has_heading = False

    def __call__(self, step: int, model: ShardedModel) -> None:
        """Shows the model after `step` steps, if it is time to."""
        if step % self._every:
            return
        images = sample_now(self._shape, model, self._conditions, _SAMPLING)
        if not is_main():
            return
        pixels = to_pixels(images.cpu())
        width = pixels.shape[2]
        if not self._has_heading:
            print(" " * 10 + " ".join(name.center(width) for name in self._names))
            self._has_heading = True
        for i, line in enumerate(_lines(pixels, self._colour)):
            print((f"{step:>8}  " if i == 0 else " " * 10) + line)
        print(flush=True)


def digits_shape() -> Model:
    """The demo's architecture, for its shapes and noise schedule; its weights are random."""
    with torch.random.fork_rng():
        return unet2d.make(UNetConfig(), image_size=8, channels=1, num_classes=10)


def sample_now(shape: Model, model: ShardedModel, conditions: Sequence[Condition], sampling: SamplingConfig) -> Tensor:
    """Images [N, C, H, W] with the weights the model has at this step. All ranks call it."""
    shape.to(model.device)
    how = {"device": model.device, "dtype": model.working_dtype}
    return denoise(shape, model.predict, conditions, sampling, first=0, **how)


def _lines(pixels: np.ndarray, colour: bool) -> list[str]:
    """Images [N, H, W, C] side by side, two rows of pixels in a line of text."""
    grey = pixels.mean(3)
    lines = []
    for top in range(0, grey.shape[1] - 1, 2):
        cells = []
        for upper, lower in zip(grey[:, top], grey[:, top + 1], strict=True):
            pairs = zip(upper.astype(int).tolist(), lower.astype(int).tolist(), strict=True)
            cells.append("".join(_cell(a, b, colour) for a, b in pairs) + ("\x1b[0m" if colour else ""))
        lines.append(" ".join(cells))
    return lines


def _cell(upper: int, lower: int, colour: bool) -> str:
    if colour:
        return f"\x1b[38;2;{upper};{upper};{upper};48;2;{lower};{lower};{lower}m▀"
    return _SHADES[min((upper + lower) * len(_SHADES) // 512, len(_SHADES) - 1)]
