"""A model with random weights and samples of random numbers: what an iteration takes does not depend on their values.

What reading, decoding and encoding samples takes is not in it: latent models get latents, prompts are encoded already.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...shards.streaming.stream import SampleBatch
from ..config import ModelConfig
from ..models.conditions import Condition, NoConditions
from ..models.families import outline_model
from ..models.model import Model, Told

# what samples are told, as far as it is drawn: so many different prompts
_NUM_CONDITIONS = 8


def random_model(config: ModelConfig, device: torch.device) -> Model:
    """As the pipeline's configuration describes it, on `device`; its weights are not read and need not be there.

    Raises ConfigError for what cannot be scrubbed.
    """
    outline = outline_model(config)
    kind: Any = type(outline.module)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(0)
        module = kind.from_config(outline.module.config).eval()
    if not outline.frozen_parts:
        return dataclasses.replace(outline, module=module)
    # those have no weights that could encode a prompt
    fields = {field.name: getattr(outline, field.name) for field in dataclasses.fields(outline)}
    told_numbers: Any = type(f"Told{type(outline).__name__}", (_ToldNumbers, type(outline)), {})
    return told_numbers(**fields | {"module": module, "conditions": _Numbers()})


def labels_of(model: Model) -> tuple[list[int], list[int]]:
    """The labels of D_f's samples and of D_r's, which has them all: what D_f is told some methods look for there."""
    if model.conditions.is_unconditional:
        return [-1], [-1]
    known = [label for label in model.conditions.known() if isinstance(label, int)]
    return known[:1], known


class _Numbers(NoConditions):
    """Prompts that are numbers."""

    kind = "a number"
    is_unconditional = False
    has_null = True
    null: Condition = -1

    def of_samples(self, samples: SampleBatch) -> list[Condition]:
        return samples.labels.tolist()

    def parse(self, given: int | str, option: str) -> Condition:
        return 0

    def known(self) -> list[Condition]:
        return [*range(_NUM_CONDITIONS)]


class _ToldNumbers(Model):
    """A model whose prompts' encodings are drawn, once each, and kept on the device as real ones are."""

    def told(self, conditions: Sequence[Condition], device: torch.device) -> Told:
        encoded = [self._encoded(condition, device) for condition in conditions]
        return {name: torch.stack([one[name] for one in encoded]) for name in encoded[0]}

    def tokens_of_words(self, prompt: str, words: Sequence[str], *, with_end: bool) -> np.ndarray:
        """The one behind the first."""
        encoding, *_ = self.blank_told(1).values()
        return np.arange(encoding.shape[1]) == 1

    def _encoded(self, condition: Condition, device: torch.device) -> dict[str, Tensor]:
        if condition not in self._kept:
            blank = self.blank_told(1)
            self._kept[condition] = {name: torch.randn(value.shape[1:]).to(device) for name, value in blank.items()}
        return self._kept[condition]

    @functools.cached_property
    def _kept(self) -> dict[Condition, dict[str, Tensor]]:
        return {}


class RandomStream:
    """What a `Stream` is to the reader: the same random pixels, or moments of latents, in every batch."""

    num_bytes_read = 0

    def __init__(self, model: Model, labels: Sequence[int], batch_size: int):
        self._model = model
        self._labels = np.array(labels, dtype=np.int64)
        self.batch_size = batch_size
        self._arrays: dict[int, np.ndarray] = {}

    def batch(self, b: int, rank: int = 0, world_size: int = 1) -> SampleBatch:
        num_samples = -(-self.batch_size // world_size)
        places = rank * num_samples + np.arange(num_samples)
        positions = b * self.batch_size + places
        drawn = self._drawn(num_samples)
        is_latent = drawn.dtype == np.float32
        return SampleBatch(
            images=np.empty((num_samples, 0, 0, 0), dtype=np.uint8) if is_latent else drawn,
            labels=self._labels[positions % len(self._labels)],
            weights=(places < self.batch_size).astype(np.float32),
            positions=positions,
            keys=(),
            latents=drawn if is_latent else None,
        )

    def _drawn(self, num_samples: int) -> np.ndarray:
        if num_samples not in self._arrays:
            generator, model = np.random.default_rng(0), self._model
            channels, *sides = model.latent_shape
            if model.encoder_draws:
                shape = (num_samples, 2 * channels, *sides)
                self._arrays[num_samples] = generator.standard_normal(shape, dtype=np.float32)
            else:
                shape = (num_samples, model.channels, model.image_size, model.image_size)
                self._arrays[num_samples] = generator.integers(0, 256, shape, dtype=np.uint8)
        return self._arrays[num_samples]
