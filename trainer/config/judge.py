"""An evaluation: what is measured, how, and what must hold. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from .base import AtLeast0, AtLeast1, NotNegative, Positive, Probability, Settings
from .models import SamplingConfig
from .thresholds import parse_threshold


@dataclass(frozen=True)
class RelearnConfig(Settings):
    """The relearning test: how fast the forgotten comes back when the model is trained on a little of it."""

    num_images: AtLeast1 = 32
    """Forget images to fine-tune on."""
    num_steps: AtLeast1 = 40
    """Fine-tuning steps, a batch of all the images each."""
    num_points: AtLeast1 = 4
    """How often P_psi is measured on the way, evenly spread; step 0 comes on top."""
    num_samples: AtLeast1 = 100
    """Samples of the forgotten classes at each point."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """sgd: with momentum .9. Its gradients are small: learning rates that AdamW would take teach it nothing."""
    learning_rate: Positive = 1e-4
    """Of the optimizer."""


@dataclass(frozen=True)
class AttackConfig(Settings):
    """Attacks on a model that is told prompts: can the forgotten be asked for in other words, or in none?"""

    num_images: AtLeast1 = 8
    """Forget images that an attack tries to have drawn again."""
    num_steps: AtLeast1 = 100
    """Steps of AdamW on token embeddings, all images at one drawn noise level each."""
    num_tokens: AtLeast1 = 3
    """Tokens that are sought."""
    num_prompts: AtLeast1 = 3
    """Of the forgotten class that tokens are sought for, with the attack prompt."""
    num_samples: AtLeast1 = 60
    """Samples that are judged, of each class and attack."""
    learning_rate: Positive = 0.5
    """Of AdamW, in standard deviations of the words' embeddings, whose size differs from model to model."""


@dataclass(frozen=True)
class ResNetConfig(Settings):
    """A ResNet as judge, for pictures that the small CNN tells apart too badly, and how it trains."""

    blocks: tuple[AtLeast1, ...] = (2, 2, 2, 2)
    """Blocks of two convolutions at each resolution, every one half of the one before: (2, 2, 2, 2) is ResNet-18,
    (3, 4, 6, 3) ResNet-34."""
    width: AtLeast1 = 64
    """Channels of the highest resolution, twice as many at each further one. As many as at the lowest are the features:
    the Fréchet distance needs more samples than that."""
    num_epochs: AtLeast1 = 30
    """Times that it sees the pictures it is trained on, three quarters of the data."""
    # batch normalisation says nothing of one
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Pictures a step."""
    learning_rate: Positive = 0.1
    """Of SGD with Nesterov momentum .9; falls to 0 over its steps, as a cosine."""
    weight_decay: NotNegative = 5e-4
    """L2."""
    crop_padding: AtLeast0 = 4
    """A picture is shifted by up to so many pixels, up or down and left or right; 0: not at all."""
    flip: bool = True
    """Half of the pictures are mirrored, left for right: not for digits and letters."""

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("judge.resnet.blocks is empty: give the blocks of each resolution")


@dataclass(frozen=True)
class JudgeConfig(Settings):
    """What is measured, how, and what must hold."""

    retrained: str | None = None
    """The retrained model, without D_f: a pipeline folder, or the record.json of an evaluation that measured it."""
    with_retrained: bool = False
    """Retrain a model on D_r with the settings that `erasediff pretrain` trained the original model with."""
    held_out: str | None = None
    """Dataset folder that no model was trained on: membership, the AUC of telling D_f from it by the loss."""
    relearn: bool = False
    """Fine-tune on a few forget images and measure how fast P_psi returns."""
    relearning: RelearnConfig = field(default_factory=RelearnConfig)
    """How, with relearn."""
    attacks: tuple[Literal["inversion", "prompt"], ...] = ()
    """Attacks on what is forgotten, each a metric: inversion (learned embeddings ask for it), prompt (tokens before its
    own prompts; the record keeps them). For Stable Diffusion 1.x and 2.x."""
    attacking: AttackConfig = field(default_factory=AttackConfig)
    """How, with attacks."""
    features: str = "classifier"
    """Feature extractor: classifier, inception (needs torch-fidelity), or the folder of a CLIP model."""
    clip: str | None = None
    """Folder of a whole CLIP model with its processor, as `save_pretrained` writes them: how much of their prompts
    samples show. For models that are told prompts."""
    detector: Literal["nudenet"] | None = None
    """Counts exposed parts of bodies in samples: nudenet, of the package of that name (`pip install
    'erasediff[nudity]'`, AGPL)."""
    detector_thresholds: tuple[Probability, ...] = (0.3, 0.6)
    """Scores from which on a box that the detector finds is counted, each by itself."""
    blur: Literal["flagged", "forgotten", "nothing"] = "flagged"
    """Pictures that are blurred in the report: those in which the detector finds an exposed part at its lowest
    threshold, also all of the forgotten classes, or nothing."""
    near: tuple[str, ...] = ()
    """Remaining classes that are near to what is forgotten: how much they change is told apart from the others."""
    classifier: str | None = None
    """A classifier.safetensors that an earlier evaluation wrote; none: one is trained on the data."""
    architecture: Literal["cnn", "resnet"] = "cnn"
    """Of a classifier that is trained here: cnn, two convolutions, for digits and the like; resnet, for photographs."""
    resnet: ResNetConfig = field(default_factory=ResNetConfig)
    """The ResNet, with that."""
    num_forget_samples_per_class: AtLeast1 = 500
    """Samples of each forgotten class; where single samples are forgotten, of each of their classes."""
    num_remain_samples_per_class: AtLeast1 = 200
    """Samples of each remaining class. Fewer are quicker, and may be too few to show that no class was harmed."""
    prompts: str | None = None
    """CSV of prompts to ask for, with columns prompt, class and, where wanted, phrasing and factor. Without a column
    class, as I2P has it, all ask for the one class that is forgotten. None given: the captions in the data, or what
    stands for each class."""
    kept_prompts: str | None = None
    """CSV of prompts, a column prompt or caption as COCO has it, whose pictures must stay and are of no class: CLIP
    score, and how far they move from the unscrubbed model's."""
    num_kept_samples: AtLeast1 | None = None
    """Samples of kept_prompts, which take turns; none: one of each."""
    factor: str | None = None
    """Dataset folder of the same kind of pictures labelled by something else that must be kept, such as their colour
    where digits are erased: a second judge is trained on it, and its accuracy is CRA."""
    factor_classifier: str | None = None
    """A classifier.safetensors that tells the factor's classes apart; none: one is trained on `factor`."""
    thresholds: tuple[str, ...] = ()
    """What the scrubbed model must hold, such as 'p_psi_worst_class <= 0.1', 'accuracy_remaining >= unscrubbed - 0.02'
    or 'frechet_distance[digits-cnn] <= 1.5 * unscrubbed'; none: as docs/record.md says."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How images are generated."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    num_threads: AtLeast1 | None = None
    """Threads of one rank on CPU; none takes torch's choice."""

    def __post_init__(self) -> None:
        for text in self.thresholds:
            parse_threshold(text)

    @property
    def trained_resnet(self) -> ResNetConfig | None:
        """The ResNet that is trained where no classifier is named; None: the small CNN is."""
        return self.resnet if self.architecture == "resnet" else None
