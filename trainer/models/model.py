"""A diffusion model as everything outside its family sees it. `families/` has one file a family."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from .class_names import Names
from .conditions import Condition, Conditions
from .lineage import Lineage
from .schedule import Schedule

# a forward pass of the trained module: itself, or the sharded engine's
Forward = Callable[..., Any]
# what the module is told beside x_t and t, by its argument's name, [B, …] each
Told = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """What trains, what it is told, and how images become what is noised.

    Shapes: B samples, images [B, channels, image_size, image_size] in [-1, 1]; x_0, what is noised, [B, *latent_shape].
    """

    module: nn.Module
    """What trains, as far as its parameters require a gradient."""
    schedule: Schedule
    conditions: Conditions
    image_size: int
    channels: int
    folder: Path | None = None
    """The pipeline it came from; None: made here."""
    class_names: Names = ()
    lineage: Lineage = field(default_factory=Lineage)
    converts_images: bool = False
    """Whether data of another shape may be made to fit."""
    caption: str | None = None
    """Stands in place of the samples' own captions, "{}" in it for the class's name."""
    reads_latents: bool = True
    """Whether latents that data have beside their images are read in place of these."""

    objective: ClassVar[str] = "diffusion"
    """The file of `objectives/` that makes its micro-batches and losses, in training and for the evidence."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one sample of what is noised."""
        return self.channels, self.image_size, self.image_size

    @property
    def takes(self) -> Mapping[int, str]:
        """Images of data that can be made to fit it, in a word each, by their channels; its own are among them."""
        return {1: "grey", 3: "colour"}

    @property
    def num_classes(self) -> int:
        """Classes the model counts, the null class among them; 0: it counts none."""
        return self.conditions.num_classes

    @property
    def null_class(self) -> int | None:
        """The index of the class that stands for no class; None: there is none."""
        null = self.conditions.null
        return null if isinstance(null, int) else None

    def name_of(self, condition: Condition) -> str:
        """What a person calls it: the class's name or number, or the prompt; empty where there is nothing to tell."""
        if isinstance(condition, int):
            known = self.class_names[condition] if condition < len(self.class_names) else None
            return str(condition) if known is None else known
        return condition if isinstance(condition, str) else ""

    encoder_draws: ClassVar[bool] = False
    """Whether `encode` is given generators in training."""

    def encode(self, images: Tensor, generators: Sequence[np.random.Generator] | None = None) -> Tensor:
        """x_0 of images. generators: one a sample, for an encoder that draws; None: its most probable answer."""
        return images

    @property
    def encoder_sha256(self) -> str | None:
        """Of what `encode_moments` works with; None where nothing encodes."""
        return None

    def encode_moments(self, images: Tensor) -> Tensor:
        """What of `encode` is the same each time, to be stored: mean and log-variance, one after the other."""
        raise NotImplementedError

    def from_moments(self, moments: Tensor, generators: Sequence[np.random.Generator] | None = None) -> Tensor:
        """x_0 of stored moments: `encode(images)` is `from_moments(encode_moments(images))`."""
        raise NotImplementedError

    def decode(self, x_0: Tensor) -> Tensor:
        """Images of x_0, not clamped."""
        return x_0

    @abstractmethod
    def told(self, conditions: Sequence[Condition], device: torch.device) -> Told:
        """What `predict` takes for these conditions."""

    attends_to_words: ClassVar[bool] = False
    """Whether it is told prompts by cross-attention to their tokens, so that `tokens_of_words` can be asked."""

    def tokens_of_words(self, prompt: str, words: Sequence[str], *, with_end: bool) -> np.ndarray:
        """Which of a prompt's tokens are of one of the words, bool [tokens]; none: it holds none of them.

        with_end: and, where it holds one, the token that ends the prompt. Raises ConfigError where nobody can say.
        """
        raise NotImplementedError

    def blank_told(self, num_samples: int) -> Told:
        """What `told` gives for so many conditions, on `meta`: its shapes and types."""
        return self.told([self.conditions.known()[0]] * num_samples, torch.device("meta"))

    def blank_pass(self, num_samples: int) -> tuple[Tensor, Tensor, Told]:
        """x_t, t and what is told to so many samples, on `meta`: what a forward pass of `predict` takes, for a plan."""
        x_t = torch.empty(num_samples, *self.latent_shape, device="meta")
        dtype = torch.from_numpy(np.empty(0, self.schedule.timestep_type)).dtype
        return x_t, torch.empty(num_samples, dtype=dtype, device="meta"), self.blank_told(num_samples)

    def predict(
        self, forward: Forward, x_t: Tensor, t: Tensor, told: Told, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The module's output [B, *latent_shape] in fp32; `dtype` is that of the weights that `forward` reads."""
        told = {name: value.to(dtype) if value.is_floating_point() else value for name, value in told.items()}
        return self._predict(forward, x_t.to(dtype), t, told).float()

    @abstractmethod
    def _predict(self, forward: Forward, x_t: Tensor, t: Tensor, told: Told) -> Tensor: ...

    @property
    def frozen_parts(self) -> Mapping[str, nn.Module]:
        """What encodes, decodes and tells, and does not train, by name."""
        return {}

    @property
    def frozen_settings(self) -> Mapping[str, Any]:
        """What else decides results beside their weights, by the part's name, in JSON's types: a latent's scale, a
        tokenizer's words."""
        return {}

    @property
    def own_settings(self) -> Mapping[str, Any]:
        """What else decides a run's result and neither hash knows, by the words that name each to a user, in JSON's
        types."""
        return {}

    def to(self, device: torch.device) -> Self:
        """This model, all its parts moved there, in place."""
        for part in (self.module, *self.frozen_parts.values()):
            part.to(device)
        return self

    def fresh_weights(self, seed: int) -> dict[str, Tensor]:
        """By parameter name, on the CPU: those of such a module before its first step of training.

        The module's class must make it of its configuration, as diffusers' do (`from_config`).
        """
        kind: Any = type(self.module)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return dict(kind.from_config(self.module.config).named_parameters())

    def copied(self) -> Self:
        """This model with a module of its own, to be trained."""
        return replace(self, module=copy.deepcopy(self.module))

    @abstractmethod
    def sampled_like(self, other: Model) -> Model:
        """This model with the sampler of `other`, as far as it is not of the training."""

    def check_saveable(self) -> None:  # noqa: B027 most formats can take any weights
        """Raises ConfigError where `save` would not write every trained tensor."""

    @abstractmethod
    def save(self, weights: dict[str, Tensor], folder: Path) -> None:
        """Writes a complete pipeline with `weights`, fp32 CPU tensors by parameter name, in place of the model's own.

        What was not trained is byte for byte what it was.
        """

    @abstractmethod
    def example(self) -> str:
        """Python that samples the pipeline with diffusers alone, the folder being the working directory."""
