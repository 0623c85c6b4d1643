"""Genuine Stable Diffusion pipelines of a few thousand parameters, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

# whose annotations are narrower than what they take
_LIBRARY: Any = diffusers
WORDS = [
    "a",
    "an",
    "image",
    "of",
    "photo",
    "red",
    "blue",
    "green",
    *["zero", "one", "two", "three", "four", "five", "six", "seven"],
]
MAX_TOKENS = 16


def make_tokenizer(folder: Path, max_tokens: int = MAX_TOKENS) -> CLIPTokenizer:
    """Mostly a token a word of `WORDS`, letters for others."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[str] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append(f"{pieces[0]} {pieces[1]}")
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            vocabulary.append(pieces[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=max_tokens)


def _text_config(tokenizer: Any, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_vae(image_size: int = 16) -> Any:
    return _LIBRARY.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=image_size,
        scaling_factor=0.5,
    )


def make_scheduler(prediction_type: str = "epsilon") -> Any:
    return _LIBRARY.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _unet_blocks() -> dict[str, Any]:
    return {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }


def make_pipeline(
    folder: Path, *, prediction_type: str = "epsilon", seed: int = 0, max_tokens: int = MAX_TOKENS
) -> Path:
    """Stable Diffusion 1.x at 16 × 16 pixels."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(folder.with_name(folder.name + "-words"), max_tokens)
    _LIBRARY.StableDiffusionPipeline(
        vae=make_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer, 16)),
        tokenizer=tokenizer,
        unet=_LIBRARY.UNet2DConditionModel(**_unet_blocks(), cross_attention_dim=16),
        scheduler=make_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def make_xl_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """Stable Diffusion XL at 16 × 16 pixels."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(folder.with_name(folder.name + "-words"))
    _LIBRARY.StableDiffusionXLPipeline(
        vae=make_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer, 16)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer, 8)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_LIBRARY.UNet2DConditionModel(
            **_unet_blocks(),
            cross_attention_dim=24,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 8,
        ),
        scheduler=make_scheduler(),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder
