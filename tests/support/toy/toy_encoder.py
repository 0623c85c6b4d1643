"""A family with an objective of its own, in one file: what is shown comes back, by an L2 without timesteps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import toy_family  # pyright: ignore[reportMissingImports]
from erasediff.trainer.models.pipeline import class_of
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Encoder(toy_family.Toy):
    objective: ClassVar[str] = "encoder"


def recognises(index: dict[str, Any]) -> bool:
    return class_of(index, "denoiser") == "ToyEncoder"


def load(config: Any, folder: Path, index: dict[str, Any]) -> Encoder:
    given = toy_family.load(config, folder, index)
    return Encoder(**{field.name: getattr(given, field.name) for field in dataclasses.fields(given)})


@dataclass(frozen=True)
class Batch:
    shown: Tensor
    told: Any
    wanted: Tensor
    weights: Tensor


class Objective:
    def __init__(self, model: Any, device: torch.device, **options: Any):
        self._model, self._device = model, device

    def remain_batches(self, samples: Any) -> list[Batch]:
        images = (torch.from_numpy(samples.images).float() - 127.5) / 127.5
        shown = self._model.encode(images.to(self._device))
        told = self._model.told(self._model.conditions.of_samples(samples), self._device)
        return [Batch(shown, told, shown, torch.from_numpy(samples.weights).to(self._device))]

    forget_batches = remain_batches

    def with_forget_targets(self, model: Any, batches: list[Batch]) -> list[Batch]:
        return [dataclasses.replace(batch, wanted=torch.zeros_like(batch.shown)) for batch in batches]

    def with_own_targets(self, batches: list[Batch]) -> list[Batch]:
        return batches

    def loss(self, model: Any, batch: Batch) -> Tensor:
        time = torch.zeros(len(batch.shown), device=self._device)
        output = self._model.predict(model.predict, batch.shown, time, batch.told, model.working_dtype)
        return (batch.wanted - output).square().flatten(1).mean(1)


@torch.no_grad()
def losses_of(
    model: Any, images: Tensor, conditions: Sequence[Any], generators: Sequence[np.random.Generator]
) -> Tensor:
    return _squares(model, images, conditions).double().mean(1)


def training_loss(
    model: Any, images: Tensor, conditions: Sequence[Any], generators: Sequence[np.random.Generator]
) -> Tensor:
    return _squares(model, images, conditions).mean()


def _squares(model: Any, images: Tensor, conditions: Sequence[Any]) -> Tensor:
    shown, time = model.encode(images), torch.zeros(len(images), device=images.device)
    told = model.told(conditions, images.device)
    return (shown - model.predict(model.module, shown, time, told)).square().flatten(1)
