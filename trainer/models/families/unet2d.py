"""UNet2DModel pipelines: pixels, told a class or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

from ...config import ModelConfig, UNetConfig
from ...errors import ConfigError
from ...side_stream import to_device
from ..class_names import names_of_model
from ..conditions import ClassConditions, Condition, NoConditions
from ..hashing import settings_of
from ..lineage import Lineage, read_lineage
from ..model import Forward, Model, Told
from ..pipeline import check_stores, class_of, components, loading, outlined_part, read_part, refuse_pickles, save_with
from ..schedule import DDPMSchedule

_TRAINED = "unet"  # the part of the pipeline


def recognises(index: dict[str, Any]) -> bool:
    """Whether model_index.json is of a pipeline of this family."""
    return class_of(index, _TRAINED) == "UNet2DModel" and not _other_parts(index)


def _other_parts(index: dict[str, Any]) -> list[str]:
    return [name for name in components(index) if name not in (_TRAINED, "scheduler")]


@dataclass(frozen=True, kw_only=True)
class UNet2D(Model):
    """A UNet2DModel with a DDPM schedule."""

    module: UNet2DModel
    schedule: DDPMSchedule
    variant: str | None = None

    def told(self, conditions: Sequence[Condition], device: torch.device) -> Told:
        if not self.num_classes:
            return {}
        return {"class_labels": to_device(torch.tensor(list(conditions), dtype=torch.int64), device)}

    def _predict(self, forward: Forward, x_t: Tensor, t: Tensor, told: Told) -> Tensor:
        return forward(x_t, t, return_dict=False, **told)[0]

    @property
    def own_settings(self) -> Mapping[str, Any]:
        return {
            f"settings of '{_TRAINED}'": settings_of(self.module.config),
            "class names": self.class_names,
            "null class": self.null_class,
        }

    def sampled_like(self, other: Model) -> UNet2D:
        assert isinstance(other, UNet2D)
        return replace(self, schedule=self.schedule.sampled_like(other.schedule))

    def check_saveable(self) -> None:
        if self.folder is not None:
            check_stores(self.folder / _TRAINED, self.module.state_dict(), self.variant)

    def save(self, weights: dict[str, Tensor], folder: Path) -> None:
        if self.folder is not None:
            save_with(self.folder, _TRAINED, self.module.state_dict(), weights, folder, self.variant)
            return
        # a new module, all of whose tensors train: the trained one may be partitioned or rounded
        unet = UNet2DModel.from_config(self.module.config)
        assert isinstance(unet, UNet2DModel)
        unet.load_state_dict(weights)
        DDPMPipeline(unet=unet, scheduler=self.schedule.scheduler).save_pretrained(folder)

    def example(self) -> str:
        if not self.num_classes:
            return _UNCONDITIONAL.format(steps=min(100, self.schedule.num_timesteps))
        has_null = self.null_class is not None
        return _CONDITIONAL.format(
            label=0 if self.null_class != 0 else 1,
            channels=self.channels,
            size=self.image_size,
            steps=min(25, self.schedule.num_timesteps),
            guidance_scale=1.5 if has_null else 1.0,
            guidance=_GUIDANCE.format(null_class=self.null_class) if has_null else "",
        )


def load(config: ModelConfig, folder: Path, index: dict[str, Any]) -> UNet2D:
    """Loads a pipeline in fp32.

    Raises ConfigError for one of another family, pickled weights, a model whose output is not what `Schedule.target`
    gives, and a null class that it does not have.
    """
    return _made(config, folder, index)


def outline(config: ModelConfig, folder: Path, index: dict[str, Any]) -> UNet2D:
    """The same on `meta`, from its configuration alone. Raises ConfigError as `load` does, weights aside."""
    return _made(config, folder, index, with_weights=False)


def _made(config: ModelConfig, folder: Path, index: dict[str, Any], *, with_weights: bool = True) -> UNet2D:
    where = f"model.path = {config.path!r}"
    unet_class = class_of(index, _TRAINED)
    if unet_class != "UNet2DModel":
        found = f"its unet is a {unet_class}" if unet_class else "it has no unet"
        raise ConfigError(f"{where}: {found}; erasediff scrubs pipelines with a UNet2DModel")
    if other := _other_parts(index):
        raise ConfigError(
            f"{where} has a {other[0]}: its unet does not work on pixels, and erasediff scrubs pipelines of a unet and "
            "a scheduler"
        )
    if with_weights:
        refuse_pickles(folder / _TRAINED)
    for name in ("caption", "image_size", "truncate_prompts"):
        if getattr(config, name):
            raise ConfigError(f"model.{name}: {config.path!r} works on pixels and is told no prompt: leave it out")
    with loading(where):
        unet = (
            read_part(UNet2DModel, folder, _TRAINED, config.variant)
            if with_weights
            else outlined_part(UNet2DModel, folder, _TRAINED)
        )
        schedule = DDPMSchedule.load(folder, class_of(index, "scheduler"), where)
    _check_shape(unet, where)
    lineage = read_lineage(folder)
    num_classes = unet.config["num_class_embeds"] or 0
    null_class = _null_class(config, lineage, num_classes)
    names = names_of_model(
        config.classes, lineage, index, num_classes=num_classes, null_class=null_class, folder=folder
    )
    size = unet.config["sample_size"]
    return UNet2D(
        module=unet,
        schedule=schedule,
        conditions=ClassConditions(num_classes, null_class) if num_classes else NoConditions(),
        image_size=size if isinstance(size, int) else size[0],
        channels=unet.config["in_channels"],
        folder=folder,
        class_names=names,
        lineage=lineage,
        converts_images=config.convert_images,
        variant=config.variant,
    )


def _check_shape(unet: UNet2DModel, where: str) -> None:
    size, channels = unet.config["sample_size"], unet.config["in_channels"]
    if size is None or (not isinstance(size, int) and size[0] != size[1]):
        raise ConfigError(f"{where}: sample_size is {size}; a model of square images is needed")
    if channels != unet.config["out_channels"]:
        raise ConfigError(
            f"{where}: {channels} channels in, {unet.config['out_channels']} out (a learned variance?); a model that "
            "predicts noise or v alone is needed"
        )
    if channels not in (1, 3):
        raise ConfigError(f"{where}: {channels} channels; images have 1 or 3")
    if unet.config["class_embed_type"] is not None:
        raise ConfigError(
            f"{where}: class_embed_type {unet.config['class_embed_type']!r} takes no class index; class-conditional "
            "models with num_class_embeds, and unconditional ones, are supported"
        )


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


def make(config: UNetConfig, *, image_size: int, channels: int, num_classes: int) -> UNet2D:
    """A class-conditional model with random weights; with `config.null_class` the last class stands for none."""
    depth = len(config.block_out_channels)
    if not depth:
        raise ConfigError("unet.block_out_channels is empty: give the channels of each resolution")
    if image_size % 2 ** (depth - 1):
        raise ConfigError(
            f"unet.block_out_channels has {depth} resolutions, each half the last: images of {image_size} pixels "
            f"are not divisible by {2 ** (depth - 1)}"
        )
    for channels_here in config.block_out_channels:
        if channels_here % config.norm_num_groups:
            raise ConfigError(
                f"unet.block_out_channels has {channels_here}: not a multiple of unet.norm_num_groups = "
                f"{config.norm_num_groups}"
            )
    attends = _attends(config, image_size)
    has_attention = any(attends)
    pairs = zip(config.block_out_channels, attends, strict=True)
    # the middle block's are the last
    attending = [width for width, here in pairs if here] + [config.block_out_channels[-1]]
    if has_attention and config.attention_head_dim > min(attending):
        raise ConfigError(
            f"unet.attention_head_dim = {config.attention_head_dim}: more than the {min(attending)} channels of a "
            "resolution with attention, or of the middle block"
        )
    unet = UNet2DModel(
        sample_size=image_size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=config.block_out_channels,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
        layers_per_block=config.layers_per_block,
        attention_head_dim=config.attention_head_dim,
        norm_num_groups=config.norm_num_groups,
        dropout=config.dropout,
        add_attention=has_attention,
        num_class_embeds=num_classes + config.null_class,
    )
    scheduler = DDPMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_schedule=config.beta_schedule,
        prediction_type=config.prediction_type,
    )
    num_known, null_class = num_classes + config.null_class, num_classes if config.null_class else None
    return UNet2D(
        module=unet,
        schedule=DDPMSchedule(scheduler),
        conditions=ClassConditions(num_known, null_class) if num_known else NoConditions(),
        image_size=image_size,
        channels=channels,
    )


def _attends(config: UNetConfig, image_size: int) -> list[bool]:
    """Of each resolution, the highest first."""
    depth, chosen = len(config.block_out_channels), config.attention_resolutions
    if not chosen:
        if config.attention_blocks > depth:
            raise ConfigError(f"unet.attention_blocks = {config.attention_blocks}: the model has {depth} resolutions")
        return [number >= depth - config.attention_blocks for number in range(depth)]
    if config.attention_blocks:
        raise ConfigError(
            f"unet.attention_blocks = {config.attention_blocks} and unet.attention_resolutions = {[*chosen]} both say "
            "which resolutions have attention: give one of them"
        )
    sizes = [image_size >> number for number in range(depth)]
    if other := [size for size in chosen if size not in sizes]:
        raise ConfigError(
            f"unet.attention_resolutions has {other[0]}: of images of {image_size} pixels the model's resolutions are "
            f"{', '.join(map(str, sizes))}"
        )
    return [size in chosen for size in sizes]


_CONDITIONAL = """\
import torch
from diffusers import DDIMScheduler, DDPMPipeline

pipeline = DDPMPipeline.from_pretrained(".")  # this folder
unet, scheduler = pipeline.unet, DDIMScheduler.from_config(pipeline.scheduler.config)
scheduler.set_timesteps({steps})

label, guidance_scale, generator = {label}, {guidance_scale}, torch.manual_seed(0)
x = torch.randn(16, {channels}, {size}, {size}, generator=generator)
labels = torch.full((16,), label)
with torch.no_grad():
    for t in scheduler.timesteps:
        epsilon = unet(x, t, class_labels=labels).sample
{guidance}        x = scheduler.step(epsilon, t, x).prev_sample
images = pipeline.numpy_to_pil((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())
"""

_GUIDANCE = """\
        # classifier-free guidance: ε = ε_∅ + w (ε_c - ε_∅); class {null_class} stands for no class
        epsilon_null = unet(x, t, class_labels=torch.full((16,), {null_class})).sample
        epsilon = epsilon_null + guidance_scale * (epsilon - epsilon_null)
"""

_UNCONDITIONAL = """\
import torch
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained(".")  # this folder
images = pipeline(batch_size=16, generator=torch.manual_seed(0), num_inference_steps={steps}).images
"""
