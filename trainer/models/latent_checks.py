"""What a pipeline in an autoencoder's latents must be made of: its parts, and their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel

from ..errors import ConfigError
from .pipeline import class_of, components, pickles_in

# what is copied and takes no part in training or sampling
_BESIDE = ("safety_checker", "feature_extractor")


def check_parts(folder: Path, index: dict[str, Any], needed: Sequence[str], where: str, *, is_whole: bool) -> None:
    """Raises ConfigError for a pipeline that lacks a part, or has one that would be left out of what is trained.

    is_whole: False where configuration files alone were fetched, which tokenizers have none of.
    """
    named = components(index)
    looked_for = [part for part in needed if is_whole or not part.startswith("tokenizer")]
    for part in looked_for:
        if part not in named or not (folder / part).is_dir():
            raise ConfigError(f"{where} has no {part}: {', '.join(looked_for)} are needed")
    if others := [part for part in named if part not in (*needed, *_BESIDE)]:
        raise ConfigError(
            f"{where} has a {others[0]}, a {class_of(index, others[0])}, which would neither be trained with nor drawn "
            "with: that is not supported"
        )
    absent = [part for part in named if is_whole and not (folder / part).is_dir()]
    if absent:
        raise ConfigError(
            f"{where} has no {absent[0]}, which its model_index.json names: put it back, or write "
            f'"{absent[0]}": [null, null] there'
        )
    for part in needed:
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        if not part.startswith("tokenizer") and not (folder / part / name).is_file():
            raise ConfigError(f"{where} has no {part}/{name}: fetch it anew")
    checker = folder / "safety_checker"
    if is_whole and "safety_checker" in named and not (any(checker.glob("*.safetensors")) or pickles_in(checker)):
        raise ConfigError(
            f"{where}: its safety_checker has no weights, so that what is published could not be loaded: put them "
            'back, or write "safety_checker": [null, null] into its model_index.json'
        )
    vae_class = class_of(index, "vae")
    if vae_class != "AutoencoderKL":
        raise ConfigError(f"{where}: its vae is a {vae_class}; an AutoencoderKL is needed")


def check_shapes(unet: UNet2DConditionModel, vae: AutoencoderKL, texts: Mapping[str, Any], where: str) -> None:
    channels, latent = unet.config["in_channels"], vae.config["latent_channels"]
    if (channels, unet.config["out_channels"]) != (latent, latent):
        raise ConfigError(
            f"{where}: its unet takes {channels} channels and gives {unet.config['out_channels']}, its vae's latents "
            f"have {latent}: one that works on latents alone is needed (no inpainting, no learned variance)"
        )
    if vae.config["in_channels"] not in (1, 3):
        raise ConfigError(f"{where}: its vae takes {vae.config['in_channels']} channels; images have 1 or 3")
    if unet.config["class_embed_type"] is not None or unet.config["num_class_embeds"] is not None:
        raise ConfigError(f"{where}: its unet is told a class or an image beside the prompt, which is not supported")
    none_but_xl = ("addition_embed_type",) if len(texts) == 1 else ()
    for key in ("time_cond_proj_dim", "encoder_hid_dim_type", *none_but_xl):
        if unet.config[key] is not None:
            raise ConfigError(f"{where}: its unet is told more than time and prompt ({key}), which is not supported")
    for name, (tokenizer, encoder) in texts.items():
        taken = encoder.config.max_position_embeddings
        if tokenizer is not None and tokenizer.model_max_length != taken:
            raise ConfigError(
                f"{where}: its {name} takes {taken} tokens, and its tokenizer's model_max_length is "
                f"{tokenizer.model_max_length:.0f}: set it to {taken} in its tokenizer_config.json"
            )
    width = sum(encoder.config.hidden_size for _, encoder in texts.values())
    if unet.config["cross_attention_dim"] != width:
        raise ConfigError(
            f"{where}: its text encoding has {width} features, its unet takes {unet.config['cross_attention_dim']}: "
            "the parts are of two models"
        )
