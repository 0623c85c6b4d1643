"""Images with what a model is told for them, and the class that a judge should see in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...shards.dataset import Dataset
from ..models.conditions import Condition
from ..models.model import Model
from .classifier import read_images

NO_SAMPLE = "no finite sample"
# real images that precision, recall and the distances compare with, at most
MAX_REAL_IMAGES = 5_000


@dataclass(frozen=True)
class Asked:
    """What images are asked for: N conditions, and the class [N] that each means."""

    conditions: list[Condition]
    labels: list[int]

    @classmethod
    def in_turn(cls, conditions: Mapping[int, Sequence[Condition]], num: int) -> Asked:
        """So many, a class after the other and round again; a class's conditions take turns, too."""
        labels, classes = [*conditions], len(conditions)
        wanted = [labels[i % classes] for i in range(num)]
        return cls([conditions[label][i // classes % len(conditions[label])] for i, label in enumerate(wanted)], wanted)


@dataclass(frozen=True)
class Images:
    """Images [N, C, H, W] in [-1, 1], the class [N] of each, and what the model is told for it."""

    images: Tensor
    labels: Tensor
    conditions: list[Condition]
    seed: int | None = None
    """Of the noise that they were made from; None: real ones."""

    @classmethod
    def of_data(
        cls, data: Dataset, model: Model, max_images: int | None = None, labels: Sequence[int] | None = None
    ) -> Images:
        """Real ones in the stream's order, the first so many; labels: only those of these classes."""
        if labels is not None:
            data = data.only(np.isin(data.labels, labels))
        batch = read_images(data, model.image_size, model.channels, max_images)
        return cls(torch.from_numpy(batch.images), torch.from_numpy(batch.labels), model.conditions.of_samples(batch))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_finite(self) -> Tensor:
        """bool [N]."""
        return self.images.isfinite().flatten(1).all(1)

    def where(self, rows: Tensor) -> Images:
        """Those of `rows`: bool [N], or numbers."""
        numbers = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        return Images(self.images[rows], self.labels[rows], [self.conditions[i] for i in numbers.tolist()], self.seed)
