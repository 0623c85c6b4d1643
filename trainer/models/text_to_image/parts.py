"""A StableDiffusionPipeline made from nothing: small parts, random weights, a schedule that fits small latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from ...config import StableDiffusionConfig
from ...errors import ConfigError
from .tokenizer import make_tokenizer

# whose annotations are narrower than what it takes
_MAKE: Any = StableDiffusionPipeline
SECTION = "stable_diffusion"


def check_parts(config: StableDiffusionConfig, *, image_size: int) -> None:
    """Raises ConfigError for settings of which no model can be made."""
    autoencoder = config.autoencoder
    for section, channels, groups in (
        (SECTION, config.block_out_channels, config.norm_num_groups),
        (f"{SECTION}.autoencoder", autoencoder.block_out_channels, autoencoder.norm_num_groups),
    ):
        if not channels:
            raise ConfigError(f"{section}.block_out_channels is empty: give the channels of each resolution")
        if odd := [number for number in channels if number % groups]:
            raise ConfigError(
                f"{section}.block_out_channels has {odd[0]}: not a multiple of {section}.norm_num_groups = {groups}"
            )
    num_halvings = len(autoencoder.block_out_channels) + len(config.block_out_channels) - 2
    if image_size % 2**num_halvings:
        raise ConfigError(
            f"{SECTION}: autoencoder and UNet halve a picture {num_halvings} times: images of {image_size} pixels "
            f"are not divisible by {2**num_halvings}; give fewer block_out_channels"
        )
    if config.attention_blocks > len(config.block_out_channels):
        raise ConfigError(
            f"{SECTION}.attention_blocks = {config.attention_blocks}: the UNet has {len(config.block_out_channels)} "
            "resolutions"
        )
    if config.text_width % config.text_heads:
        raise ConfigError(
            f"{SECTION}.text_width = {config.text_width}: not a multiple of {SECTION}.text_heads = {config.text_heads}"
        )


def write_pipeline(
    config: StableDiffusionConfig, folder: Path, *, autoencoder: AutoencoderKL, image_size: int, seed: int
) -> None:
    """A StableDiffusionPipeline's folder: this autoencoder, a tokenizer of `config.words`, and random weights.

    The text encoder stays as it is: what tells words apart it has from its first day, and the UNet learns to read it.
    v-prediction down to pure noise (arXiv 2305.08891): where the last step still shows some of a small picture, the
    UNet learns to see it there, and not to read.
    """
    tokenizer = make_tokenizer(config.words, folder / "tokenizer", num_tokens=config.num_tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = _make_text_encoder(config, tokenizer)
        torch.manual_seed(seed)
        unet = _make_unet(config, autoencoder, image_size)
    transformers.utils.logging.disable_progress_bar()
    _MAKE(
        vae=autoencoder.cpu(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            num_train_timesteps=config.num_train_timesteps,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=False,
            steps_offset=1,  # without effect here; StableDiffusionPipeline warns of any other
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def _make_text_encoder(config: StableDiffusionConfig, tokenizer: Any) -> CLIPTextModel:
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=2 * config.text_width,
            projection_dim=config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_heads,
            max_position_embeddings=config.num_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # CLIP's embeddings begin small (σ = .02) and grow: as they are, a word would drown in those that attention adds
    for name, values in encoder.named_parameters():
        if name.endswith("token_embedding.weight"):
            torch.nn.init.normal_(values, std=1.0)
        elif name.endswith("position_embedding.weight"):
            torch.nn.init.normal_(values, std=0.3)
    return encoder


def _make_unet(config: StableDiffusionConfig, autoencoder: AutoencoderKL, image_size: int) -> UNet2DConditionModel:
    plain = len(config.block_out_channels) - config.attention_blocks
    latent_channels = autoencoder.config["latent_channels"]
    return UNet2DConditionModel(
        sample_size=image_size // 2 ** (len(autoencoder.config["block_out_channels"]) - 1),
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=config.block_out_channels,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",) * config.attention_blocks,
        up_block_types=("CrossAttnUpBlock2D",) * config.attention_blocks + ("UpBlock2D",) * plain,
        layers_per_block=config.layers_per_block,
        # diffusers takes their number where it says their width
        attention_head_dim=config.attention_heads,
        norm_num_groups=config.norm_num_groups,
        cross_attention_dim=config.text_width,
    )
