"""The model to scrub, a new one's architecture, and how images are generated. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .base import AtLeast0, AtLeast1, Decay, Finite, NotNegative, Positive, Seed, Settings, class_names


@dataclass(frozen=True)
class ModelConfig(Settings):
    """The model to scrub."""

    path: str
    """A diffusers pipeline: a `save_pretrained` folder or a Hub id."""
    revision: str | None = None
    """Hub revision."""
    null_class: int | None = None
    """Index of the class that stands for 'no class' in classifier-free guidance; none: what the model's erasediff.json
    says, and without one that it has no such class."""
    classes: tuple[str, ...] = ()
    """The model's classes in its order, as the data call them, its null class left out: names, or a file with a line
    for each (.json: a list). None given: the names in the model's folder or, where it has none, the data's order."""
    convert_images: bool = False
    """Make images fit that are too small, oblong, of several shapes, or grey for colour or the reverse. Larger squares
    are made smaller without it."""

    caption: str | None = None
    """Told this in place of a sample's own caption, {} standing for its class's name: 'an image of {}'."""
    truncate_prompts: bool = False
    """Cut prompts that are longer than the model takes, as diffusers does, where they are refused otherwise."""
    image_size: AtLeast1 | None = None
    """Pixels of a side that a latent model works at; none: those that it was trained at."""
    read_latents: bool = True
    """Read the latents that data have beside their images, as `concept generate` writes them, in place of the images;
    without it every image is encoded."""
    variant: str | None = None
    """Of the weights' files, such as fp16, where the folder has no others."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", class_names(self.classes, "model.classes"))


@dataclass(frozen=True)
class UNetConfig(Settings):
    """Architecture of a class-conditional UNet2DModel made from nothing."""

    block_out_channels: tuple[AtLeast1, ...] = (32, 64)
    """Channels of each resolution."""
    layers_per_block: AtLeast1 = 1
    """ResNet layers in each block."""
    attention_head_dim: AtLeast1 = 8
    """Channels of one attention head."""
    attention_blocks: AtLeast0 = 0
    """How many of the lowest resolutions have attention."""
    attention_resolutions: tuple[AtLeast1, ...] = ()
    """In place of that, which ones have it, by the pixels of their side. The middle block has it where any does."""
    norm_num_groups: AtLeast1 = 8
    """Groups of the group normalisation."""
    dropout: Decay = 0.0
    """Share of each ResNet layer's activations that training leaves out; a scrub of the model leaves out none. Drawn
    for each step, rank and micro-batch: another number of these gives another model."""
    num_train_timesteps: AtLeast1 = 1000
    """Noise levels T."""
    beta_schedule: Literal["linear", "squaredcos_cap_v2"] = "linear"
    """Noise schedule."""
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the model predicts."""
    null_class: bool = True
    """Add one class, the last, for classifier-free guidance."""


@dataclass(frozen=True)
class AutoencoderConfig(Settings):
    """Architecture and training of a small AutoencoderKL, which trains before the model that works on its latents."""

    block_out_channels: tuple[AtLeast1, ...] = (8, 16)
    """Channels of each resolution; each but the first halves the picture. The first is what it costs."""
    latent_channels: AtLeast1 = 4
    """Channels of the latents."""
    norm_num_groups: AtLeast1 = 8
    """Groups of the group normalisation."""
    max_train_steps: AtLeast1 = 600
    """Steps; the learning rate falls to 0 over them, as a cosine."""
    train_batch_size: AtLeast1 = 32
    """Pictures a step."""
    learning_rate: Positive = 1e-2
    """Peak learning rate of AdamW."""
    kl_weight: NotNegative = 2e-4
    """Of the latents' divergence from a normal distribution, beside the mean squared error."""


@dataclass(frozen=True)
class StableDiffusionConfig(Settings):
    """Architecture of a small StableDiffusionPipeline made from nothing. Its text encoder keeps its random weights."""

    words: tuple[str, ...] = ()
    """The tokenizer's words, those of no caption too. None given: the captions'."""
    num_tokens: AtLeast1 = 12
    """Tokens of a prompt, one for each word, its beginning and end among them."""
    text_width: AtLeast1 = 64
    """Numbers that stand for a token."""
    text_layers: AtLeast1 = 2
    """Layers of the text encoder."""
    text_heads: AtLeast1 = 4
    """Attention heads of each."""
    block_out_channels: tuple[AtLeast1, ...] = (32, 64)
    """Channels of each of the UNet's resolutions, the first that of the latents."""
    layers_per_block: AtLeast1 = 1
    """ResNet layers in each block."""
    attention_heads: AtLeast1 = 8
    """Of each of the UNet's attention layers."""
    attention_blocks: AtLeast1 = 1
    """How many of the lowest resolutions read the prompt."""
    norm_num_groups: AtLeast1 = 8
    """Groups of the UNet's group normalisation."""
    num_train_timesteps: AtLeast1 = 1000
    """Noise levels T."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """Between pictures and latents."""


@dataclass(frozen=True)
class SamplingConfig(Settings):
    """How images are generated."""

    guidance_scale: Finite = 1.5
    """w of classifier-free guidance, ε_∅ + w (ε_c - ε_∅); without effect where the model has no null class."""
    num_inference_steps: AtLeast1 = 25
    """DDIM steps."""
    seed: Seed = 0
    """The i-th image is a function of the seed and i."""
    batch_size: AtLeast1 = 64
    """Images of one forward pass, twice as many with guidance. Another number changes them by rounding alone."""


@dataclass(frozen=True)
class GenerateConfig(Settings):
    """What a model draws of a concept, to be trained on."""

    num_forget_images: AtLeast1 = 400
    """Pictures of the concept, over all of its prompts."""
    num_remain_images: AtLeast1 = 400
    """Pictures of what must stay, over all of its prompts."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How they are drawn."""
