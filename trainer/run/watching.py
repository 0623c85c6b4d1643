"""Samples while a run goes on: what the model draws of the forgotten and of the rest, every few steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ..config import SamplingConfig
from ..engine.sharded_model import ShardedModel
from ..files import naming
from ..models.conditions import Condition
from ..models.model import Model
from ..models.pictures import to_grid, with_names
from ..models.sampling import denoise
from ..ranks import collectives
from .reporting import Reports

_IMAGES_A_ROW, _MAX_ROWS = 4, 4
_MIN_PIXELS = 64


class SampleWatch:
    """A `Watch` that writes FOLDER/step-000050.png: rows for what D_f is told, then for D_r, from the same noise.

    All ranks call it; the first one writes. The run's own randomness is not touched.
    """

    def __init__(
        self,
        model: Model,
        folder: Path,
        forget: Sequence[Condition],
        remain: Sequence[Condition],
        *,
        every: int,
        reports: Reports,
        max_batch_size: int | None = None,
    ):
        self._max_batch_size = max_batch_size
        self._model = model
        self._folder = folder
        self._rows = [("forget", condition) for condition in forget[:_MAX_ROWS]]
        self._rows += [("remain", condition) for condition in remain[:_MAX_ROWS]]
        self._every = every
        self._reports = reports

    def __call__(self, step: int, model: ShardedModel) -> None:
        if step % self._every:
            return
        conditions = [condition for _, condition in self._rows for _ in range(_IMAGES_A_ROW)]
        how = {"device": model.device, "dtype": model.working_dtype}
        config = SamplingConfig()
        steps = min(config.num_inference_steps, self._model.schedule.num_timesteps)
        config = dataclasses.replace(config, num_inference_steps=steps)
        # guidance takes each twice; the noise is by the number of the picture, whatever batch it is in
        size = self._max_batch_size or len(conditions)
        images = torch.cat(
            [
                denoise(self._model, model.predict, conditions[first : first + size], config, first=first, **how)
                for first in range(0, len(conditions), size)
            ]
        )
        if not collectives.is_main():
            return
        names = [f"{side}: {self._model.name_of(condition)}".rstrip(": ") for side, condition in self._rows]
        scale = max(1, _MIN_PIXELS // self._model.image_size)
        picture = with_names(to_grid(images.cpu(), _IMAGES_A_ROW, scale), names)
        self._write(step, picture)

    def _write(self, step: int, picture: Image.Image) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{step:06d}.png"
        with naming(path):
            picture.save(path)
        self._reports.picture(step, "samples", picture)
