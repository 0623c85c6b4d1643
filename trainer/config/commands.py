"""Every command's settings: one frozen dataclass from TOML file to command line to record. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..errors import ConfigError
from ..files import check_place
from .base import LATER, AtLeast1, Settings, class_names
from .judge import JudgeConfig
from .methods import DEFAULT_METHOD, AnyMethod, TargetedConfig, default_method, method_kind
from .models import GenerateConfig, ModelConfig, SamplingConfig, StableDiffusionConfig, UNetConfig
from .run import EngineConfig, OptimizerConfig, TrainConfig

Pipeline = Literal["unet2d", "stable-diffusion"]


def _is_of_targets(option: dataclasses.Field[Any]) -> bool:
    """Whether it says of the forget target what it says in other methods, too."""
    shared = {other.name: other.default for other in dataclasses.fields(TargetedConfig)}
    return option.name in shared and option.default == shared[option.name]


class _ByMethod(Settings):
    """Settings in which the method decides the defaults of other sections."""

    method: AnyMethod

    deciding: ClassVar[tuple[str, ...]] = ("method.name", "method.target")

    def __post_init__(self) -> None:
        for name, section in self.method.default_sections().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, section)

    @classmethod
    def decided(cls, values: dict[str, Any], chosen: dict[str, str]) -> dict[str, Any]:
        section = values.get("method", {})
        if not isinstance(section, dict):
            return values
        given = section.get("name", DEFAULT_METHOD)
        name = chosen.get("method.name", given)
        kept = {option.name for option in dataclasses.fields(method_kind(name)) if _is_of_targets(option)}
        if name != given:  # the other method's own options go
            section = {key: section[key] for key in section if key in kept}
        target = {"target": chosen["method.target"]} if "method.target" in chosen else {}
        return values | {"method": section | {"name": name} | target}

    @classmethod
    def section_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        section = values["method"] if isinstance(values.get("method"), dict) else {}
        kind = method_kind(section.get("name", DEFAULT_METHOD))
        decides = {field.name for field in dataclasses.fields(kind)} & {"name", "target"}
        method = kind(**{key: section[key] for key in decides & section.keys()})
        return super().section_defaults(values) | {"method": method, **method.default_sections()}


@dataclass(frozen=True)
class ScrubConfig(_ByMethod):
    """Erase the forget set's influence from a diffusion model and keep the rest."""

    model: ModelConfig
    """The model to scrub."""
    forget: str
    """Dataset folder of D_f, as `erasediff shards split` makes it."""
    remain: str
    """Dataset folder of D_r."""
    output: str
    """Run folder: config.toml, attempts with their checkpoints, metrics.jsonl, and the scrubbed pipeline in model/."""
    method: AnyMethod = field(default_factory=default_method)
    """How to forget."""
    train: TrainConfig = LATER
    """Length, batches and bookkeeping."""
    optimizer: OptimizerConfig = LATER
    """The outer optimizer."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Sharding and precision."""


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """Train a small diffusion model on a dataset, from nothing: told a class, or the captions."""

    deciding: ClassVar[tuple[str, ...]] = ("pipeline",)

    data: str
    """Dataset folder."""
    output: str
    """Run folder; the pipeline goes to model/ in it."""
    classes: tuple[str, ...] = ()
    """The model's classes in its order, absent ones too: names, or a file with a line for each (.json: a list). None
    given: the data's."""
    pipeline: Pipeline = "unet2d"
    """unet2d: pixels, told a class. stable-diffusion: latents of an autoencoder trained first, told the captions."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    """Architecture of unet2d."""
    stable_diffusion: StableDiffusionConfig = field(default_factory=StableDiffusionConfig)
    """Architecture of stable-diffusion, and how its autoencoder trains."""
    train: TrainConfig = LATER
    """Length, batches and bookkeeping."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=2e-3, lr_scheduler="cosine", ema_decay="auto", max_grad_norm=1.0
        )
    )
    """The optimizer."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Sharding and precision."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", class_names(self.classes, "classes"))
        if self.train is None:
            object.__setattr__(self, "train", _pretrain_length(self.pipeline))

    @classmethod
    def decided(cls, values: dict[str, Any], chosen: dict[str, str]) -> dict[str, Any]:
        return values | chosen

    @classmethod
    def section_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        return super().section_defaults(values) | {"train": _pretrain_length(values.get("pipeline", "unet2d"))}


def _pretrain_length(pipeline: str) -> TrainConfig:
    return TrainConfig(max_train_steps=900 if pipeline == "unet2d" else 720)


@dataclass(frozen=True)
class SampleConfig(Settings):
    """Generate a grid of images, a row for each class."""

    model: ModelConfig
    """The model to sample."""
    output: str
    """The picture's file to write: .png, .jpg or .webp."""
    labels: tuple[int | str, ...] = ()
    """Classes by their index or name, or prompts, a row for each; none given: all classes without the null class."""
    num_images: AtLeast1 = 8
    """Images of each class."""
    scale: AtLeast1 = 8
    """Enlarge each pixel so many times."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How images are generated."""

    def check_output(self) -> None:
        """Raises ConfigError for what is no picture's file."""
        path, formats = Path(self.output), (".png", ".jpg", ".jpeg", ".webp")
        if path.is_dir():
            raise ConfigError(f"output = '{self.output}' is a folder: name a picture's file")
        check_place(path, "output")
        if path.suffix.lower() not in formats:
            raise ConfigError(f"output = '{self.output}': a picture's file ends in {', '.join(formats)}")


@dataclass(frozen=True)
class EvaluateConfig(Settings):
    """Measure a scrubbed model beside the one it came from, and write record.json and report.html."""

    run: str
    """Run folder of a finished scrub, or an erasure's folder; the record and the report go there."""
    data: str
    """Dataset folder with samples of every class: a classifier is trained on it to judge the samples."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """What is measured, how, and what must hold."""


@dataclass(frozen=True)
class ConceptConfig(Settings):
    """Draw a forget and a remain set with the model itself, from a request's prompts."""

    request: str
    """Erasure request of words, .toml or .json: concept, remain, phrasings, anchor (docs/stable-diffusion.md)."""
    model: ModelConfig
    """The model that draws, and is to forget."""
    output: str
    """Folder for images/, data/ and split/."""
    classes: tuple[str, ...] = ()
    """What pictures count as, in the order in which a judge knows them, more too: names, or a file with a line for each
    (.json: a list). None given: the concept, then the words that stay."""
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    """How many pictures, and how they are drawn."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    num_threads: AtLeast1 | None = None
    """Threads of one rank on CPU; none takes torch's choice."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", class_names(self.classes, "classes"))


@dataclass(frozen=True)
class EraseConfig(_ByMethod):
    """Carry an erasure request from the list of samples to a published model, or publish nothing."""

    request: str
    """Erasure request, .toml or .json: id, date, reason, and selectors of samples, or words: concept, remain, phrasings
    and anchor (docs/stable-diffusion.md)."""
    model: ModelConfig
    """The model to scrub."""
    output: str
    """Folder for split/, scrub/, record.json, report.html and, as `publish` says, model/."""
    data: str | None = None
    """Dataset folder the model was trained on; none where the request is words: the model draws its own."""
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    """What it draws then."""
    method: AnyMethod = field(default_factory=default_method)
    """How to forget."""
    train: TrainConfig = LATER
    """Length, batches and bookkeeping."""
    optimizer: OptimizerConfig = LATER
    """The outer optimizer."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Sharding and precision."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """What is measured, how, and what must hold."""
    publish: Literal["shown", "within-limits", "retrained"] = "shown"
    """shown: only a model that is shown to have forgotten and to hold every threshold. within-limits: also where that
    is not shown (too few samples, or nothing that tells forgetting), as long as every figure is within its limit.
    retrained: the retrained model in the scrubbed one's place, where it is shown to hold every threshold."""


@dataclass(frozen=True)
class DemoConfig(Settings):
    """Build a dataset of real digits, train a model on it, erase one digit, and show the evidence.

    With --text: a text-to-image model, and a word.
    """

    output: str | None = None
    """Folder for everything the demo makes; none: demo, or demo-text."""
    forget_label: int = 3
    """The digit to erase."""
    text: bool = False
    """A small Stable Diffusion pipeline that draws digits in six inks by prompts."""
    concept: str = "three"
    """With --text: the word to erase, a digit's (zero to nine) or a colour's (red, green, blue, yellow, white,
    purple)."""
