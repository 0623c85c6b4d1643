"""Stable Diffusion XL: two text encoders, their pooled text, and the size an image had, beside the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...config import ModelConfig
from ...errors import ConfigError
from ...side_stream import to_device
from ..conditions import Condition
from ..model import Forward, Told
from ..pipeline import class_of
from .stable_diffusion import StableDiffusion, is_latent, loaded, tokens_of

_TEXTS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}


def recognises(index: dict[str, Any]) -> bool:
    """Whether model_index.json is of a pipeline of this family."""
    return is_latent(index) and class_of(index, "text_encoder_2") is not None


@dataclass(frozen=True, kw_only=True)
class StableDiffusionXL(StableDiffusion):
    """arXiv 2307.01952. Samples count as uncropped images of the model's own size."""

    takes_vectors: ClassVar[bool] = False

    zeros_for_null: bool
    """Whether the null prompt is told by zeros instead of by its encoding."""

    @property
    def frozen_settings(self) -> Mapping[str, Any]:
        return {**super().frozen_settings, "null prompt": {"is zeros": self.zeros_for_null}}

    def told(self, conditions: Sequence[Condition], device: torch.device) -> Told:
        told = dict(super().told(conditions, device))
        size = float(self.image_size)
        # original height and width, top and left of the crop, target height and width
        told["time_ids"] = to_device(torch.tensor([[size, size, 0, 0, size, size]]), device).repeat(len(conditions), 1)
        return told

    def blank_told(self, num_samples: int) -> Told:
        pooling: Any = self.texts["text_encoder_2"][1]
        pooled = torch.empty(num_samples, pooling.config.projection_dim, device="meta")
        sizes = torch.empty(num_samples, 6, device="meta")
        return {**super().blank_told(num_samples), "text_embeds": pooled, "time_ids": sizes}

    @torch.no_grad()
    def encode_prompt(self, prompt: str, device: torch.device) -> Told:
        hidden, pooled = [], torch.empty(0)
        for tokenizer, encoder in self.texts.values():
            output = encoder(**tokens_of(tokenizer, encoder, prompt, device), output_hidden_states=True)
            hidden.append(output.hidden_states[-2][0])  # the last layer's are not what the U-Net was trained with
            pooled = output[0][0]  # of the second encoder, which projects it
        encoding = {"encoder_hidden_states": torch.cat(hidden, dim=-1), "text_embeds": pooled}
        if self.zeros_for_null and prompt == self.conditions.null:
            return {name: torch.zeros_like(value) for name, value in encoding.items()}
        return encoding

    def _predict(self, forward: Forward, x_t: Tensor, t: Tensor, told: Told) -> Tensor:
        beside = {name: told[name] for name in ("text_embeds", "time_ids")}
        return forward(x_t, t, told["encoder_hidden_states"], added_cond_kwargs=beside, return_dict=False)[0]


def load(config: ModelConfig, folder: Path, index: dict[str, Any]) -> StableDiffusionXL:
    """Loads a pipeline in fp32. Raises ConfigError for one that lacks a part or has one that is not supported."""
    return _made(config, index, loaded(config, folder, index, texts=_TEXTS))


def outline(config: ModelConfig, folder: Path, index: dict[str, Any]) -> StableDiffusionXL:
    """The same on `meta`, from its configuration alone, without tokenizers. Raises ConfigError as `load` does."""
    return _made(config, index, loaded(config, folder, index, texts=_TEXTS, with_weights=False))


def _made(config: ModelConfig, index: dict[str, Any], fields: dict[str, Any]) -> StableDiffusionXL:
    unet, (_, pooling) = fields["module"], fields["texts"]["text_encoder_2"]
    given = (unet.config["addition_time_embed_dim"] or 0) * 6 + (pooling.config.projection_dim or 0)
    taken = unet.config["projection_class_embeddings_input_dim"]
    if unet.config["addition_embed_type"] != "text_time" or given != taken:
        raise ConfigError(
            f"model.path = {config.path!r}: its unet is told {unet.config['addition_embed_type']} of {taken} numbers "
            f"beside the prompt, text_time of {given} is needed (a refiner is not supported)"
        )
    return StableDiffusionXL(**fields, zeros_for_null=bool(index.get("force_zeros_for_empty_prompt", True)))
