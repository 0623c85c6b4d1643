"""Stable Diffusion 1.x and 2.x: a U-Net on an autoencoder's latents, told a prompt by a CLIP text encoder."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from ...config import ModelConfig
from ...errors import ConfigError
from ...side_stream import Staged, to_device
from ..conditions import Condition
from ..hashing import settings_of, weights_sha256
from ..latent_checks import check_parts, check_shapes
from ..lineage import read_lineage
from ..model import Forward, Model, Told
from ..pipeline import check_stores, class_of, loading, outlined_part, read_part, refuse_pickles, save_with
from ..prompts import PromptConditions
from ..schedule import DDPMSchedule
from ..text_to_image.splicing import spliced
from ..text_to_image.tokenizer import tokenize, tokens_of_words, unknown_words, vocabulary_of

TRAINED = "unet"  # the part of the pipeline
_TEXTS = {"text_encoder": "tokenizer"}
# prompts whose encoding is kept: 240 kB each for Stable Diffusion 1.x, 640 kB for XL
_MAX_KEPT_PROMPTS = 512


def recognises(index: dict[str, Any]) -> bool:
    """Whether model_index.json is of a pipeline of this family."""
    return is_latent(index) and class_of(index, "text_encoder_2") is None


def is_latent(index: dict[str, Any]) -> bool:
    """Whether it has a U-Net that is told by cross-attention, in the latents of an autoencoder."""
    return class_of(index, TRAINED) == "UNet2DConditionModel" and class_of(index, "vae") is not None


@dataclass(frozen=True, kw_only=True)
class StableDiffusion(Model):
    """A UNet2DConditionModel in the latents of an AutoencoderKL."""

    module: UNet2DConditionModel
    schedule: DDPMSchedule
    vae: AutoencoderKL
    texts: Mapping[str, tuple[Any, nn.Module]]
    """(tokenizer, text encoder) by the encoder's name in the pipeline."""
    variant: str | None = None

    encoder_draws: ClassVar[bool] = True
    takes_vectors: ClassVar[bool] = True
    """Whether `spliced` can be asked."""
    attends_to_words: ClassVar[bool] = True

    @property
    def latent_shape(self) -> tuple[int, ...]:
        side = self.image_size // downscaling(self.vae)
        return self.module.config["in_channels"], side, side

    def encode(self, images: Tensor, generators: Sequence[np.random.Generator] | None = None) -> Tensor:
        return self.from_moments(self.encode_moments(images), generators)

    @property
    def encoder_sha256(self) -> str:
        return self._encoder_sha256

    @functools.cached_property
    def _encoder_sha256(self) -> str:
        encodes = ("encoder.", "quant_conv.")
        weights = weights_sha256({n: value for n, value in self.vae.state_dict().items() if n.startswith(encodes)})
        # a decoder that was made on for itself changes nothing
        decodes = ("scaling_factor", "shift_factor", "up_block_types", "use_post_quant_conv", "force_upcast")
        settings = {name: value for name, value in settings_of(self.vae.config).items() if name not in decodes}
        return hashlib.sha256((weights + json.dumps(settings, sort_keys=True)).encode()).hexdigest()

    def encode_moments(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent_dist.parameters  # pyright: ignore[reportAttributeAccessIssue]

    def from_moments(self, moments: Tensor, generators: Sequence[np.random.Generator] | None = None) -> Tensor:
        posterior = DiagonalGaussianDistribution(moments)
        if generators is None:
            return posterior.mean * self.vae.config["scaling_factor"]
        shape = posterior.mean.shape[1:]
        drawn = np.stack([generator.standard_normal(shape, dtype=np.float32) for generator in generators])
        noise = to_device(drawn, moments.device)
        return (posterior.mean + posterior.std * noise) * self.vae.config["scaling_factor"]

    def decode(self, x_0: Tensor) -> Tensor:
        return self.vae.decode(x_0 / self.vae.config["scaling_factor"]).sample  # pyright: ignore[reportAttributeAccessIssue]

    def told(self, conditions: Sequence[Condition], device: torch.device) -> Told:
        encoded = [self._encoded(str(prompt), device).take() for prompt in conditions]
        return {name: torch.stack([one[name] for one in encoded]) for name in encoded[0]} if encoded else {}

    @functools.cached_property
    def _encoded(self) -> Callable[[str, torch.device], Staged[Told]]:
        # a batch's encodings may be there before they are computed, when a picture is drawn with one of them
        def encoded(prompt: str, device: torch.device) -> Staged[Told]:
            return Staged(self.encode_prompt(prompt, device), device)

        return functools.lru_cache(_MAX_KEPT_PROMPTS)(encoded)

    @torch.no_grad()
    def encode_prompt(self, prompt: str, device: torch.device) -> Told:
        """What `predict` takes for one prompt, without the dimension of samples.

        One at a time: its bits must not depend on what it is encoded beside.
        """
        ((tokenizer, encoder),) = self.texts.values()
        return {"encoder_hidden_states": encoder(**tokens_of(tokenizer, encoder, prompt, device))[0][0]}

    def spliced(self, prompt: str, vectors: Tensor, device: torch.device) -> Told:
        """`encode_prompt` of a prompt with vectors [k, features] as token embeddings before its own words.

        Gradients flow to them. Raises ConfigError where they leave no room for the prompt.
        """
        self.check_room(prompt, len(vectors))
        ((tokenizer, encoder),) = self.texts.values()
        return {"encoder_hidden_states": spliced(encoder, tokens_of(tokenizer, encoder, prompt, device), vectors)[0][0]}

    def check_room(self, prompt: str, num_tokens: int) -> None:
        """Raises ConfigError where so many tokens leave no room for the prompt."""
        ((tokenizer, _),) = self.texts.values()
        if len(tokenize(tokenizer, prompt).input_ids) + num_tokens > tokenizer.model_max_length:
            raise ConfigError(f"{prompt!r}: with {num_tokens} more tokens it is longer than the model takes")

    def tokens_of_words(self, prompt: str, words: Sequence[str], *, with_end: bool) -> np.ndarray:
        # encoders' features stand side by side: a token that attention sees is the same one of each
        first, *others = [tokens_of_words(t, prompt, words, with_end=with_end) for t, _ in self.texts.values()]
        if any((other != first).any() for other in others):
            raise ConfigError(f"{prompt!r}: the model's tokenizers cut it differently, so its words have no one place")
        return first

    def blank_told(self, num_samples: int) -> Told:
        configs: list[Any] = [encoder.config for _, encoder in self.texts.values()]
        num_tokens = max(config.max_position_embeddings for config in configs)
        width = self.module.config["cross_attention_dim"]
        return {"encoder_hidden_states": torch.empty(num_samples, num_tokens, width, device="meta")}

    def _predict(self, forward: Forward, x_t: Tensor, t: Tensor, told: Told) -> Tensor:
        return forward(x_t, t, told["encoder_hidden_states"], return_dict=False)[0]

    @property
    def frozen_parts(self) -> Mapping[str, nn.Module]:
        return {"vae": self.vae, **{name: encoder for name, (_, encoder) in self.texts.items()}}

    @property
    def frozen_settings(self) -> Mapping[str, Any]:
        return {
            TRAINED: settings_of(self.module.config),
            "vae": settings_of(self.vae.config),
            **{name: settings_of(encoder.config) for name, (_, encoder) in self.texts.items()},
            **{name.replace("text_encoder", "tokenizer"): vocabulary_of(t) for name, (t, _) in self.texts.items()},
        }

    def sampled_like(self, other: Model) -> StableDiffusion:
        assert isinstance(other, StableDiffusion)
        return replace(self, schedule=self.schedule.sampled_like(other.schedule))

    def check_saveable(self) -> None:
        assert self.folder is not None
        check_stores(self.folder / TRAINED, self.module.state_dict(), self.variant)

    def save(self, weights: dict[str, Tensor], folder: Path) -> None:
        assert self.folder is not None
        save_with(self.folder, TRAINED, self.module.state_dict(), weights, folder, self.variant)

    def example(self) -> str:
        variant = "" if self.variant is None else f", variant={self.variant!r}"
        knows = not any(unknown_words(tokenizer, _PROMPT) for tokenizer, _ in self.texts.values())
        return _EXAMPLE.format(variant=variant, prompt=_PROMPT if knows else "", size=self.image_size)


def load(config: ModelConfig, folder: Path, index: dict[str, Any]) -> StableDiffusion:
    """Loads a pipeline in fp32. Raises ConfigError for one that lacks a part or has one that is not supported."""
    return StableDiffusion(**loaded(config, folder, index, texts=_TEXTS))


def outline(config: ModelConfig, folder: Path, index: dict[str, Any]) -> StableDiffusion:
    """The same on `meta`, from its configuration alone, without tokenizers. Raises ConfigError as `load` does."""
    return StableDiffusion(**loaded(config, folder, index, texts=_TEXTS, with_weights=False))


def loaded(
    config: ModelConfig, folder: Path, index: dict[str, Any], *, texts: Mapping[str, str], with_weights: bool = True
) -> dict[str, Any]:
    """The fields of a `StableDiffusion`; texts: each text encoder and its tokenizer. Without weights: on `meta`.

    Raises ConfigError for a pipeline that lacks a part, and for parts that are not what the algorithm takes.
    """
    where = f"model.path = {config.path!r}"
    if config.null_class is not None or config.classes:
        named = "null_class" if config.null_class is not None else "classes"
        raise ConfigError(f"model.{named}: {config.path!r} is told prompts and has no classes: leave it out")
    needed = [TRAINED, "vae", "scheduler", *texts, *texts.values()]
    check_parts(folder, index, needed, where, is_whole=with_weights)
    for part in (TRAINED, "vae", *texts) if with_weights else ():
        refuse_pickles(folder / part)
    read = functools.partial(read_part, variant=config.variant) if with_weights else outlined_part
    with loading(where):
        unet = read(UNet2DConditionModel, folder, TRAINED)
        vae = read(AutoencoderKL, folder, "vae")
        schedule = DDPMSchedule.load(folder, class_of(index, "scheduler"), where, clip_sample=False)
        encoders = {
            encoder: (
                transformers.CLIPTokenizer.from_pretrained(folder / tokenizer) if with_weights else None,
                read(_text_encoder(index, encoder), folder, encoder).requires_grad_(False).eval(),
            )
            for encoder, tokenizer in texts.items()
        }
    check_shapes(unet, vae, encoders, where)
    vae.requires_grad_(False).eval()
    return {
        "module": unet,
        "vae": vae,
        "texts": encoders,
        "schedule": schedule,
        "conditions": PromptConditions([t for t, _ in encoders.values()], truncates=config.truncate_prompts),
        "image_size": _image_size(config, unet, vae),
        "channels": vae.config["in_channels"],
        "folder": folder,
        "lineage": read_lineage(folder),
        "converts_images": config.convert_images,
        "caption": config.caption,
        "variant": config.variant,
        "reads_latents": config.read_latents,
    }


def _text_encoder(index: dict[str, Any], part: str) -> Any:
    """Its class. Raises ConfigError for one that is not known."""
    supported = {"CLIPTextModel", "CLIPTextModelWithProjection"}
    found = class_of(index, part)
    if found not in supported:
        raise ConfigError(f"its {part} is a {found}; known are {', '.join(sorted(supported))}")
    transformers.utils.logging.disable_progress_bar()
    return getattr(transformers, str(found))


def tokens_of(tokenizer: Any, encoder: nn.Module, prompt: str, device: torch.device) -> dict[str, Tensor]:
    """What a text encoder takes for one prompt, as diffusers' pipelines make it: [1, tokens] each."""
    room = tokenizer.model_max_length
    read = tokenize(tokenizer, [prompt], padding="max_length", max_length=room, truncation=True, return_tensors="pt")
    tokens = {"input_ids": to_device(read.input_ids, device)}
    if getattr(encoder.config, "use_attention_mask", False):
        tokens["attention_mask"] = to_device(read.attention_mask, device)
    return tokens


def downscaling(vae: AutoencoderKL) -> int:
    """Pixels of an image to one of its latent, along a side."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def _image_size(config: ModelConfig, unet: UNet2DConditionModel, vae: AutoencoderKL) -> int:
    factor, trained_at = downscaling(vae), unet.config["sample_size"]
    if trained_at is not None and not isinstance(trained_at, int):
        trained_at = trained_at[0] if trained_at[0] == trained_at[1] else None
    if config.image_size is None:
        if trained_at is None:
            raise ConfigError(f"model.image_size: {config.path!r} does not say at how many pixels: give it")
        return trained_at * factor
    unit = factor * 2 ** (len(unet.config["block_out_channels"]) - 1)
    if config.image_size % unit:
        raise ConfigError(f"model.image_size = {config.image_size}: a multiple of {unit} is needed by this model")
    return config.image_size


_PROMPT = "a photo"
_EXAMPLE = """\
import torch
from diffusers import AutoPipelineForText2Image

pipeline = AutoPipelineForText2Image.from_pretrained("."{variant})  # this folder
prompts = ["{prompt}"]
images = pipeline(prompts, height={size}, width={size}, generator=torch.manual_seed(0)).images
"""
