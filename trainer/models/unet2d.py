"""Diffusion models in and out: a diffusers pipeline folder or Hub id in, the same with new weights out."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config import ModelConfig, UNetConfig
from ..errors import ConfigError
from .class_names import Names, names_of_model
from .lineage import Lineage, read_lineage

# what a component's folder may hold that is weights, in any format
_WEIGHT_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".pb", ".safetensors"}
_PICKLED_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
# samplers of one and the same training objective: they share DDPMScheduler's betas and prediction types
_SCHEDULERS = {
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
}


@dataclass(frozen=True)
class DiffusionModel:
    """A noise predictor and what is needed to train and sample it."""

    unet: UNet2DModel
    scheduler: DDPMScheduler
    folder: Path | None  # the pipeline it came from; none: made here
    null_class: int | None
    class_names: Names = ()
    lineage: Lineage = field(default_factory=Lineage)
    converts_images: bool = False  # whether data of another shape may be made to fit

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
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
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
    other = [name for name in _components(index) if name not in ("unet", "scheduler")]
    if other:
        raise ConfigError(
            f"model.path = {config.path!r} has a {other[0]}: its unet does not work on pixels, and erasediff scrubs "
            "pipelines of a unet and a scheduler"
        )
    scheduler_class = (index.get("scheduler") or [None, None])[1]
    if scheduler_class not in _SCHEDULERS:
        raise ConfigError(
            f"model.path = {config.path!r}: its scheduler is a {scheduler_class}, which has no DDPM noise schedule; "
            f"known: {', '.join(sorted(_SCHEDULERS))}"
        )
    _refuse_pickles(folder / "unet")
    try:
        unet = UNet2DModel.from_pretrained(
            folder, subfolder="unet", use_safetensors=True, low_cpu_mem_usage=False, torch_dtype=torch.float32
        )
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).strip().splitlines()]
        reason = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])  # torch's first line is a heading
        raise ConfigError(f"model.path = {config.path!r} cannot be loaded: {reason}") from None
    assert isinstance(unet, UNet2DModel)
    assert isinstance(scheduler, DDPMScheduler)
    size = unet.config["sample_size"]
    if size is None or (not isinstance(size, int) and size[0] != size[1]):
        raise ConfigError(f"model.path = {config.path!r}: sample_size is {size}; a model of square images is needed")
    if unet.config["in_channels"] != unet.config["out_channels"]:
        raise ConfigError(
            f"model.path = {config.path!r}: {unet.config['in_channels']} channels in, {unet.config['out_channels']} "
            "out (a learned variance?); a model that predicts noise or v alone is needed"
        )
    if unet.config["in_channels"] not in (1, 3):
        raise ConfigError(f"model.path = {config.path!r}: {unet.config['in_channels']} channels; images have 1 or 3")
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
    lineage = read_lineage(folder)
    num_classes = unet.config["num_class_embeds"] or 0
    null_class = _null_class(config, lineage, num_classes)
    names = names_of_model(
        config.classes, lineage, index, num_classes=num_classes, null_class=null_class, folder=folder
    )
    return DiffusionModel(unet, scheduler, folder, null_class, names, lineage, config.convert_images)


def _null_class(config: ModelConfig, lineage: Lineage, num_classes: int) -> int | None:
    """What was asked for, or what the model's folder says."""
    given, known = config.null_class, lineage.null_class
    if given is not None and known is not None and given != known:
        raise ConfigError(f"model.null_class = {given}: the null class of '{config.path}' is {known}; leave it out")
    null_class = known if given is None else given
    if null_class is not None and not 0 <= null_class < num_classes:
        known_classes = f"0 to {num_classes - 1}" if num_classes else "it is unconditional"
        raise ConfigError(f"model.null_class = {null_class} is no class of the model ({known_classes})")
    return null_class


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "model_index.json").read_text())
    except FileNotFoundError:
        of_a_run = (folder / "model" / "model_index.json").exists()
        hint = f"; give '{folder / 'model'}'" if of_a_run else ""
        raise ConfigError(
            f"model.path = '{folder}' holds no model_index.json: not a diffusers pipeline{hint}"
        ) from None
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
    if not depth:
        raise ConfigError("unet.block_out_channels is empty: give the channels of each resolution")
    if not 0 <= config.attention_blocks <= depth:
        raise ConfigError(f"unet.attention_blocks = {config.attention_blocks}: the model has {depth} resolutions")
    if image_size % 2 ** (depth - 1):
        raise ConfigError(
            f"unet.block_out_channels has {depth} resolutions, each half the last: images of {image_size} pixels "
            f"are not divisible by {2 ** (depth - 1)}"
        )
    for name in ("layers_per_block", "norm_num_groups", "num_train_timesteps", "attention_head_dim"):
        if getattr(config, name) < 1:
            raise ConfigError(f"unet.{name} = {getattr(config, name)}: at least 1")
    for channels_here in config.block_out_channels:
        if channels_here < 1 or channels_here % config.norm_num_groups:
            raise ConfigError(
                f"unet.block_out_channels has {channels_here}: not a multiple of unet.norm_num_groups = "
                f"{config.norm_num_groups}"
            )
    plain = depth - config.attention_blocks
    if config.attention_head_dim > min(config.block_out_channels[plain:], default=config.attention_head_dim):
        raise ConfigError(
            f"unet.attention_head_dim = {config.attention_head_dim}: more than the "
            f"{min(config.block_out_channels[plain:])} channels of a resolution with attention"
        )
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


# what a noise predictor was trained with; the rest of a scheduler's settings says how it is sampled
_TRAINED_WITH = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)


def sampled_like(model: DiffusionModel, other: DiffusionModel) -> DiffusionModel:
    """`model` with the sampler of `other`: timestep spacing and clipping, whatever it was not trained with."""
    own = {name: model.scheduler.config[name] for name in _TRAINED_WITH}
    config = dict(other.scheduler.config) | own
    # diffusers drops these names' values, as the defaults of another class of scheduler
    config["_use_default_values"] = [name for name in config.get("_use_default_values", ()) if name not in own]
    scheduler = DDPMScheduler.from_config(config)
    assert isinstance(scheduler, DDPMScheduler)
    return replace(model, scheduler=scheduler)


def check_saveable(model: DiffusionModel) -> None:
    """Raises ConfigError where the model's file does not hold every trained tensor under the name it has in memory."""
    if model.folder is None:
        return
    stored = stored_weights(model.folder / "unet")
    absent = [name for name, parameter in model.unet.named_parameters() if name not in stored]
    if absent:
        raise ConfigError(
            f"{model.folder / 'unet'} stores {absent[0]} under an older name: load the pipeline with diffusers and "
            "save_pretrained it once, then scrub that"
        )


def save(model: DiffusionModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes a complete pipeline: `weights` (fp32 CPU tensors by parameter name) in place of the model's own.

    The components that model_index.json names are copied as they are, but for the trained one's weights, whatever their
    format; nothing else of the folder is, since it may hold the original weights (checkpoints, averages). Tensors keep
    the type they had.
    """
    if model.folder is None:
        # a new module: the trained one may be partitioned or rounded
        unet = UNet2DModel.from_config(model.unet.config)
        assert isinstance(unet, UNet2DModel)
        unet.load_state_dict(weights)
        DDPMPipeline(unet=unet, scheduler=model.scheduler).save_pretrained(folder)
        return
    folder.mkdir(parents=True)
    shutil.copyfile(model.folder / "model_index.json", folder / "model_index.json")
    for component in _components(_read_index(model.folder)):
        shutil.copytree(model.folder / component, folder / component, ignore=_left_out if component == "unet" else None)
        (folder / component).chmod(0o700 | (folder / component).stat().st_mode)  # the original's may be read-only
    tensors = stored_weights(model.folder / "unet")
    for name, value in weights.items():
        tensors[name] = value.to(tensors[name].dtype).contiguous()
    save_file(tensors, folder / "unet" / _UNET_WEIGHTS, metadata={"format": "pt"})


def _components(index: dict[str, Any]) -> list[str]:
    """Names of the pipeline's parts, which are folders of the same names."""
    return [name for name, value in index.items() if isinstance(value, list) and value[0] is not None]


def _left_out(directory: str, names: list[str]) -> list[str]:
    """Whatever is or may hold weights: files of every such format, indexes of them, folders."""
    return [
        name
        for name in names
        if Path(name).suffix in _WEIGHT_SUFFIXES or name.endswith(".index.json") or (Path(directory) / name).is_dir()
    ]


def stored_weights(component: Path) -> dict[str, Tensor]:
    """The tensors of the files that `from_pretrained` reads: one file, or several and an index."""
    whole = component / _UNET_WEIGHTS
    if whole.exists():
        return load_file(whole)
    index = json.loads((component / f"{_UNET_WEIGHTS}.index.json").read_text())
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(index["weight_map"].values())):
        tensors |= load_file(component / name)
    return tensors
