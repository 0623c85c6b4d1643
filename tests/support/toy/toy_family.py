"""A family of its own: latents of a linear autoencoder, told a prompt. Nothing in the trainer knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from erasediff.shards import Dataset, SampleBatch
from erasediff.trainer.config import ModelConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.models.conditions import Condition, NoConditions
from erasediff.trainer.models.lineage import read_lineage
from erasediff.trainer.models.model import Forward, Model, Told
from erasediff.trainer.models.pipeline import class_of, save_with, stored_weights
from erasediff.trainer.models.schedule import DDPMSchedule
from torch import Tensor, nn

WORDS = ["", "a", "small", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class Denoiser(nn.Module):
    """ε of 16 numbers from them, the timestep and a prompt's embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16 + 1 + 8, 48), nn.SiLU(), nn.Linear(48, 16))

    def forward(self, x: Tensor, t: Tensor, words: Tensor) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), t.expand(len(x))[:, None].to(x.dtype) / 1000, words], 1)).view_as(x)


class Prompts:
    """Conditions that are prompts; a class of the data is asked for in two ways."""

    kind, null, num_classes = "a prompt", "", 0
    is_unconditional, has_null, asks_for_classes = False, True, True

    def of_samples(self, samples: SampleBatch) -> list[Condition]:
        return [*samples.texts]

    def of_dataset(self, data: Dataset, rows: np.ndarray | None = None) -> list[Condition]:
        return [data.text(i) for i in range(len(data)) if rows is None or rows[i]]

    def of_class(self, label: int, data: Dataset) -> list[Condition]:
        return [f"a {size}{WORDS[int(data.classes[label]) + 3]}" for size in ("", "small ")]

    def parse(self, given: int | str, option: str) -> Condition:
        if unknown := {*str(given).split()} - {*WORDS}:
            raise ConfigError(f"{option} = {given!r}: the model knows no {' '.join(sorted(unknown))}")
        return str(given)

    def known(self) -> list[Condition]:
        return [f"a {word}" for word in WORDS[3:]]

    check = NoConditions.check


@dataclass(frozen=True, kw_only=True)
class Toy(Model):
    frozen: nn.ParameterDict  # the autoencoder's orthonormal rows, the words' embeddings: they must not train
    schedule: DDPMSchedule

    @property
    def frozen_parts(self) -> Mapping[str, nn.Module]:
        return {"frozen": self.frozen}

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return 16, 1, 1

    def encode(self, images: Tensor, generators: Sequence[np.random.Generator] | None = None) -> Tensor:
        return (images.flatten(1) @ self.frozen["rows"].T).view(-1, 16, 1, 1)

    def decode(self, x_0: Tensor) -> Tensor:
        return (x_0.flatten(1) @ self.frozen["rows"]).view(-1, 1, 8, 8)

    def told(self, conditions: Sequence[Condition], device: torch.device) -> Told:
        rows = [[WORDS.index(word) for word in str(prompt).split()] or [0] for prompt in conditions]
        return {"words": torch.stack([self.frozen["words"][row].mean(0) for row in rows]).to(device)}

    def _predict(self, forward: Forward, x_t: Tensor, t: Tensor, told: Told) -> Tensor:
        return forward(x_t, t, **told)

    def sampled_like(self, other: Model) -> Toy:
        assert isinstance(other, Toy)
        return replace(self, schedule=self.schedule.sampled_like(other.schedule))

    def save(self, weights: dict[str, Tensor], folder: Path) -> None:
        assert self.folder is not None
        save_with(self.folder, "denoiser", self.module.state_dict(), weights, folder)

    def example(self) -> str:
        return "# there is no diffusers pipeline for it\n"


def recognises(index: dict[str, Any]) -> bool:
    return class_of(index, "denoiser") == "ToyDenoiser"


def load(config: ModelConfig, folder: Path, index: dict[str, Any]) -> Toy:
    module = Denoiser()
    frozen = nn.ParameterDict({"rows": torch.empty(16, 64), "words": torch.empty(len(WORDS), 8)})
    module.load_state_dict(stored_weights(folder / "denoiser"))
    frozen.load_state_dict(stored_weights(folder / "frozen"))
    return Toy(
        module=module,
        schedule=DDPMSchedule.load(folder, class_of(index, "scheduler"), f"model.path = {config.path!r}"),
        conditions=Prompts(),
        frozen=frozen,
        image_size=8,
        channels=1,
        folder=folder,
        lineage=read_lineage(folder),
        converts_images=config.convert_images,
    )
