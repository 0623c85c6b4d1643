"""The published architectures that benchmarks run, as pipeline folders without weights: configuration alone.

python benchmarks/pipelines.py sd1 FOLDER     # for `erasediff bench`; or digits, ddpm-cifar10, sdxl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

# as published; what is not named is diffusers' default
UNETS: dict[str, dict[str, Any]] = {
    # the digits' of `erasediff pretrain`
    "digits": {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "add_attention": False,
        "num_class_embeds": 11,
    },
    # arXiv 2006.11239's: 128 channels, [1, 2, 2, 2], attention at 16 × 16
    "ddpm-cifar10": {
        "sample_size": 32,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "attention_head_dim": None,
        "num_class_embeds": 11,
    },
    "sd1": {"sample_size": 64, "cross_attention_dim": 768},
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
# pixels of a latent's side
_DOWNSCALING = 8


def write_pipeline(name: str, folder: Path, *, width: int | None = None) -> Path:
    """The folder, with nothing in it but configuration. width: of a latent model's first resolution; None: 320."""
    import diffusers
    import torch
    import transformers

    library: Any = diffusers
    settings = dict(UNETS[name])
    if width is not None:
        settings |= _narrowed(name, width)
    is_latent = "cross_attention_dim" in settings
    kind = library.UNet2DConditionModel if is_latent else library.UNet2DModel
    parts: dict[str, list[str]] = {"unet": ["diffusers", kind.__name__], "scheduler": ["diffusers", "DDPMScheduler"]}
    with torch.device("meta"):
        kind(**settings).save_config(folder / "unet")
        if is_latent:
            widths = (128, 256, 512, 512)  # each but the first halves
            library.AutoencoderKL(
                block_out_channels=widths,
                down_block_types=("DownEncoderBlock2D",) * len(widths),
                up_block_types=("UpDecoderBlock2D",) * len(widths),
                layers_per_block=2,
                sample_size=settings["sample_size"] * _DOWNSCALING,
            ).save_config(folder / "vae")
    library.DDPMScheduler().save_config(folder / "scheduler")
    if is_latent:
        parts |= {"vae": ["diffusers", "AutoencoderKL"], "tokenizer": ["transformers", "CLIPTokenizer"]}
        parts["text_encoder"] = ["transformers", "CLIPTextModel"]
        config = transformers.CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
        )
        config.save_pretrained(folder / "text_encoder")
    if name == "sdxl":
        parts |= {"tokenizer_2": ["transformers", "CLIPTokenizer"]}
        parts["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        config = transformers.CLIPTextConfig(
            hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
        )
        config.save_pretrained(folder / "text_encoder_2")
    classes = {"sd1": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
    index = {"_class_name": classes.get(name, "DDPMPipeline"), **parts}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=UNETS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, help="of a latent model's first resolution (default 320, as published)")
    arguments = parser.parse_args()
    write_pipeline(arguments.model, arguments.folder, width=arguments.width)


def _narrowed(name: str, width: int) -> dict[str, Any]:
    if name == "sd1":
        return {"block_out_channels": (width, 2 * width, 4 * width, 4 * width)}
    if name == "sdxl":
        heads = {"attention_head_dim": (max(1, width // 64), max(1, width // 32), max(1, width // 16))}
        return {"block_out_channels": (width, 2 * width, 4 * width), **heads}
    raise SystemExit(f"--width {width}: {name} has one width")


if __name__ == "__main__":
    main()
