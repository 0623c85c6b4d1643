"""Diffusion models in and out: a diffusers pipeline folder or Hub id in, the same with new weights out."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from .config import ModelConfig, UNetConfig
from .errors import ConfigError

# what a component's folder may hold that is weights, in any format
_WEIGHT_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".pb", ".safetensors"}
_PICKLED_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class DiffusionModel:
    """A noise predictor and what is needed to train and sample it."""

    unet: UNet2DModel
    scheduler: DDPMScheduler
    folder: Path | None  # the pipeline it came from; none: made here
    null_class: int | None

    @property
    def num_classes(self) -> int:
        """Classes the model was built for, the null class among them; 0: unconditional."""
        return self.unet.config["num_class_embeds"] or 0

    @property
    def prediction_type(self) -> str:
        return self.scheduler.config["prediction_type"]

    @property
    def image_size(self) -> int:
        size = self.unet.config["sample_size"]
        return size if isinstance(size, int) else size[0]

    @property
    def channels(self) -> int:
        return self.unet.config["in_channels"]


def resolve(config: ModelConfig) -> Path:
    """The pipeline's folder; a Hub id is downloaded, safetensors and configuration files only."""
    folder = Path(config.path)
    if folder.is_dir():
        return folder
    if config.path.count("/") != 1 or config.path.startswith((".", "/", "~")):
        raise ConfigError(f"model.path = {config.path!r}: no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                config.path,
                revision=config.revision,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.md"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model.path = {config.path!r} is neither a folder here nor a model the Hub gave: {reason}"
        ) from None


def load(config: ModelConfig) -> DiffusionModel:
    """Loads the model to scrub, in fp32.

    Raises ConfigError for a folder that is no pipeline, pickled weights, a model that is not a UNet2DModel with a DDPM
    noise schedule, and a null class that it does not have.
    """
    folder = resolve(config)
    index = _read_index(folder)
    unet_class = (index.get("unet") or [None, None])[1]
    if unet_class != "UNet2DModel":
        found = f"its unet is a {unet_class}" if unet_class else "it has no unet"
        raise ConfigError(f"model.path = {config.path!r}: {found}; erasediff scrubs pipelines with a UNet2DModel")
    _refuse_pickles(folder / "unet")
    unet = UNet2DModel.from_pretrained(
        folder, subfolder="unet", use_safetensors=True, low_cpu_mem_usage=False, torch_dtype=torch.float32
    )
    assert isinstance(unet, UNet2DModel)
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    assert isinstance(scheduler, DDPMScheduler)
    if scheduler.config["prediction_type"] not in ("epsilon", "v_prediction"):
        raise ConfigError(
            f"model.path = {config.path!r}: prediction_type {scheduler.config['prediction_type']!r} is not supported; "
            "epsilon and v_prediction are"
        )
    if unet.config["class_embed_type"] is not None:
        raise ConfigError(
            f"model.path = {config.path!r}: class_embed_type {unet.config['class_embed_type']!r} takes no class index; "
            "class-conditional models with num_class_embeds, and unconditional ones, are supported"
        )
    model = DiffusionModel(unet, scheduler, folder, config.null_class)
    if config.null_class is not None and not 0 <= config.null_class < model.num_classes:
        known = f"0 to {model.num_classes - 1}" if model.num_classes else "it is unconditional"
        raise ConfigError(f"model.null_class = {config.null_class} is no class of the model ({known})")
    return model


def _read_index(folder: Path) -> dict[str, list[str | None]]:
    try:
        return json.loads((folder / "model_index.json").read_text())
    except FileNotFoundError:
        raise ConfigError(f"model.path = '{folder}' holds no model_index.json: not a diffusers pipeline") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{folder / 'model_index.json'} is not JSON: {error}") from None


def _refuse_pickles(component: Path) -> None:
    has_safetensors = any(component.glob("*.safetensors"))
    pickles = sorted(path.name for path in component.glob("*") if path.suffix in _PICKLED_SUFFIXES)
    if pickles and not has_safetensors:
        raise ConfigError(
            f"{component / pickles[0]} is pickled, and unpickling runs code: save the model as safetensors "
            "(save_pretrained(..., safe_serialization=True))"
        )
    if not has_safetensors:
        raise ConfigError(f"{component} holds no .safetensors weights")


def make(config: UNetConfig, *, image_size: int, channels: int, num_classes: int) -> DiffusionModel:
    """A class-conditional model with random weights; with `config.null_class` the last class stands for none."""
    depth = len(config.block_out_channels)
    if not 0 <= config.attention_blocks <= depth:
        raise ConfigError(f"unet.attention_blocks = {config.attention_blocks}: the model has {depth} resolutions")
    if image_size % 2 ** (depth - 1):
        raise ConfigError(
            f"unet.block_out_channels has {depth} resolutions, each half the last: images of {image_size} pixels "
            f"are not divisible by {2 ** (depth - 1)}"
        )
    plain = depth - config.attention_blocks
    unet = UNet2DModel(
        sample_size=image_size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=config.block_out_channels,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * config.attention_blocks,
        up_block_types=("AttnUpBlock2D",) * config.attention_blocks + ("UpBlock2D",) * plain,
        layers_per_block=config.layers_per_block,
        attention_head_dim=config.attention_head_dim,
        norm_num_groups=config.norm_num_groups,
        add_attention=config.attention_blocks > 0,
        num_class_embeds=num_classes + config.null_class,
    )
    scheduler = DDPMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_schedule=config.beta_schedule,
        prediction_type=config.prediction_type,
    )
    return DiffusionModel(unet, scheduler, None, num_classes if config.null_class else None)


def save(model: DiffusionModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes a complete pipeline: `weights` (fp32 CPU tensors by parameter name) in place of the model's own.

    Every file that does not hold trained tensors is copied as it is; every other form of the trained component's
    weights (other formats, variants) is left out. Tensors keep the type they had.
    """
    if model.folder is None:
        model.unet.load_state_dict(weights, strict=False)
        DDPMPipeline(unet=model.unet, scheduler=model.scheduler).save_pretrained(folder)
        return

    def left_out(directory: str, names: list[str]) -> list[str]:
        inside_unet = Path(directory) == model.folder / "unet" if model.folder else False
        return [
            name
            for name in names
            if name.startswith(".")
            or Path(name).suffix in _PICKLED_SUFFIXES
            or (inside_unet and (Path(name).suffix in _WEIGHT_SUFFIXES or name.endswith(".index.json")))
        ]

    shutil.copytree(model.folder, folder, ignore=left_out)
    original = _original_weights(model.folder / "unet")
    for name, value in weights.items():
        original[name] = value.to(original[name].dtype).contiguous()
    save_file(original, folder / "unet" / _UNET_WEIGHTS, metadata={"format": "pt"})


def _original_weights(component: Path) -> dict[str, Tensor]:
    """The tensors of the files that `from_pretrained` reads: one file, or several and an index."""
    whole = component / _UNET_WEIGHTS
    if whole.exists():
        return load_file(whole)
    index = json.loads((component / f"{_UNET_WEIGHTS}.index.json").read_text())
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(index["weight_map"].values())):
        tensors |= load_file(component / name)
    return tensors
