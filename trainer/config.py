"""Every setting of a run: one frozen dataclass from TOML file to command line to record. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Precision = Literal["fp32", "bf16-autocast", "bf16"]
Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"]


def _class_names(words: tuple[str, ...], option: str) -> tuple[str, ...]:
    """A file's names in place of its own: what a run was started with stays in its config, whatever becomes of it."""
    if not words:
        return ()
    from ..shards.classes import read_class_names

    return read_class_names(words, option)


# stands where a default depends on another setting, until that is known
LATER: Any = None


class Settings:
    """What all of them share: a key that no field has is an error, not ignored."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True)
class EraseDiffConfig(Settings):
    """EraseDiff, Algorithm 1 of arXiv 2401.05779, with Theorem 3.1's multiplier λ_t."""

    name: Literal["erasediff"] = "erasediff"
    """Which method."""
    target: Literal["rl", "noise"] = "rl"
    """ε_f of eq. (2): the model's own prediction under another class c_m (rl), or uniform noise (noise)."""
    anchor: int | None = None
    """With rl: always this class as c_m, the null class too; none draws c_m per sample among the remaining classes."""
    teacher: Literal["current", "frozen"] = "current"
    """Whose prediction the rl target is: the model being scrubbed (the paper's) or the original one."""
    gradient_of_g: Literal["envelope", "first_order"] = "envelope"
    """∇g = ∇L_f(θ) with φ^K held constant, or ∇L_f(θ) - ∇L_f(φ^K)."""
    barrier: Literal["norm", "value"] = "norm"
    """a_t = η‖∇g‖² (the paper's) or η·max(g, 0)."""
    eta: float = LATER
    """η of the barrier a_t, by default 0.5 with rl, 1e-4 with noise; the optimizer's learning rate is apart."""
    lambda_cap: float | None = 3.0
    """Upper bound on λ_t; breaks Theorem 3.1's constraint on the steps it caps, which are counted. none: no cap."""
    num_inner_steps: int = 1
    """K, plain SGD steps on L_f from θ_t to φ^K. Changes nothing with envelope and norm."""
    xi: float = 1e-3
    """ξ, learning rate of the inner steps."""
    inner_every: int = 0
    """With envelope and norm: compute φ^K, to log g, on every n-th step; 0 never. Otherwise it is always computed."""

    def __post_init__(self) -> None:
        if self.eta is None:
            object.__setattr__(self, "eta", 0.5 if self.target == "rl" else 1e-4)

    @property
    def needs_inner_loop(self) -> bool:
        return self.barrier == "value" or self.gradient_of_g == "first_order"

    @property
    def subtracts_gradients(self) -> bool:
        """Whether ∇g is a difference of two gradients."""
        return self.gradient_of_g == "first_order" and self.num_inner_steps > 0


@dataclass(frozen=True)
class MOOConfig(Settings):
    """The naive multi-objective loss, eq. (3): L_r + λ·L_f with a constant λ."""

    name: Literal["moo"] = "moo"
    """Which method."""
    target: Literal["rl", "noise"] = "rl"
    """ε_f of eq. (2), as in erasediff."""
    anchor: int | None = None
    """With rl: always this class as c_m; none draws c_m per sample among the remaining classes."""
    teacher: Literal["current", "frozen"] = "current"
    """Whose prediction the rl target is: the model being scrubbed or the original one."""
    weight: float = 1.0
    """λ of eq. (3)."""


@dataclass(frozen=True)
class FinetuneConfig(Settings):
    """Training on the remaining data alone: forgetting by neglect, and what `pretrain` runs."""

    name: Literal["finetune"] = "finetune"
    """Which method."""


# the share of the old weights that an average may still hold at the end of a run
MAX_OLD_WEIGHTS = 0.05

MethodConfig = EraseDiffConfig | MOOConfig | FinetuneConfig
METHOD_CONFIGS: dict[str, type[MethodConfig]] = {
    "erasediff": EraseDiffConfig,
    "moo": MOOConfig,
    "finetune": FinetuneConfig,
}


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """The outer optimizer, which applies δ to θ."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """adamw, adam or sgd."""
    learning_rate: float = 1e-4
    """Peak learning rate; with erasediff's noise target 3e-4 by default."""
    lr_scheduler: Schedule = "constant"
    """Schedule of the learning rate over max_train_steps."""
    lr_warmup_steps: int = 0
    """Steps over which the learning rate rises from 0; with every schedule but constant."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's moments."""
    eps: float = 1e-8
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """Decoupled for adamw, L2 for adam and sgd."""
    momentum: float = 0.0
    """Of sgd."""
    max_grad_norm: float | None = None
    """Scales δ down to this norm where it is longer; none never does."""
    ema_decay: float | Literal["auto"] | None = None
    """Saves an exponential moving average of the weights, with diffusers' EMAModel decay; none saves the weights.
    auto: 0.995, or less where a short run would keep more than 5 % of the old weights."""

    def fitted(self, max_train_steps: int) -> OptimizerConfig:
        """With `auto` resolved for a run of this length."""
        if self.ema_decay != "auto":
            return self
        return dataclasses.replace(self, ema_decay=min(0.995, MAX_OLD_WEIGHTS ** (1 / max_train_steps)))


@dataclass(frozen=True)
class EngineConfig(Settings):
    """How the model is sharded and in which precision it runs."""

    zero_stage: Literal[1, 2, 3] = 2
    """DeepSpeed ZeRO stage: 1 shards optimizer state, 2 gradients too, 3 weights too."""
    precision: Precision = "fp32"
    """fp32; bf16-autocast: fp32 weights, bf16 arithmetic, but fp32 where g or ∇g is a difference (docs/methods.md);
    bf16: bf16 weights, fp32 master weights and accumulation."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    forward_batch_size: int | None = None
    """Most samples in one forward pass on one rank; a batch is split into as many micro-batches as that takes."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """With bf16: the type gradients are summed over ranks in. bf16 halves the traffic, costs 2e-3 relative error."""
    reduce_bucket_size: int = 50_000_000
    """Elements reduced at once."""
    overlap_communication: bool = False
    """Reduce gradients while the backward pass still runs; needs a reduce_bucket_size that holds every parameter."""
    persistence_threshold: int = 100_000
    """At stage 3: parameters of fewer elements stay whole on every rank; 0 shards all of them."""
    num_threads: int | None = None
    """Threads of one rank on CPU; none takes torch's choice. Results depend on it in the last bits."""
    step_timeout_seconds: float = 1800.0
    """When no rank's step has moved for so long, the run ends and says which ranks are missing."""
    deterministic: bool = False
    """On CUDA: bit-for-bit repeatable arithmetic, slower. CPU always is."""

    def __post_init__(self) -> None:
        # torch counts a timeout in nanoseconds, in 64 bits
        if not 0 < self.step_timeout_seconds <= 1e9:
            raise ValueError(f"engine.step_timeout_seconds = {self.step_timeout_seconds}: more than 0, at most 1e9")
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"engine.num_threads = {self.num_threads}: at least 1")
        if self.zero_stage == 1 and self.precision == "bf16":
            raise ValueError(
                "engine.zero_stage = 1 with engine.precision = 'bf16' makes DeepSpeed use an unsharded optimizer: "
                "use engine.zero_stage = 2"
            )


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Length, batches and bookkeeping of a run."""

    max_train_steps: int = 100
    """Outer steps T; with erasediff's noise target 150 by default."""
    train_batch_size: int = 64
    """Samples a loss sees in one step, over all ranks."""
    seed: int = 0
    """Everything random is a function of it, the step and the sample."""
    label_drop: float | None = None
    """Chance that a remain sample's class becomes the null class; none: 0.1 where there is a null class, else 0."""
    forget_label_drop: float = 0.0
    """The same for forget samples, for the trained model only, not for the rl target."""
    non_finite: Literal["stop", "skip"] = "stop"
    """A NaN or Inf loss or gradient ends the run, or only that step's update is left out."""
    max_loss_r_ratio: float | None = 3.0
    """A scrub ends, and writes no model, once the smoothed L_r is so many times its start. none: never."""
    max_bad_samples: int = 0
    """So many samples may turn out unreadable in an attempt: they count for nothing and are named. One more ends it."""
    dataloader_num_workers: int = 1
    """Threads a rank that read, decode and noise samples ahead of their step; 0 does it in the step."""
    checkpointing_steps: int = 0
    """Save a checkpoint every n steps; 0 never. The same command continues from the newest."""
    checkpoints_total_limit: int = 2
    """Newest checkpoints kept."""
    descent_every: int = 10
    """Log ⟨∇g, θ_t - θ_{t+1}⟩, what the optimizer made of the guarantee, on every n-th step; 0 never."""


def default_sections(method: MethodConfig) -> dict[str, TrainConfig | OptimizerConfig]:
    """The sections of a scrub by this method that nobody has set: noise asks for little a step, so for more of them."""
    if isinstance(method, EraseDiffConfig) and method.target == "noise":
        return {"train": TrainConfig(max_train_steps=150), "optimizer": OptimizerConfig(learning_rate=3e-4)}
    return {"train": TrainConfig(), "optimizer": OptimizerConfig()}


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

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _class_names(self.classes, "model.classes"))


@dataclass(frozen=True)
class ScrubConfig(Settings):
    """Erase the forget set's influence from a diffusion model and keep the rest."""

    model: ModelConfig
    """The model to scrub."""
    forget: str
    """Dataset folder of D_f, as `erasediff shards split` makes it."""
    remain: str
    """Dataset folder of D_r."""
    output: str
    """Run folder: config.toml, attempts with their checkpoints, metrics.jsonl, and the scrubbed pipeline in model/."""
    method: MethodConfig = field(default_factory=EraseDiffConfig)
    """How to forget."""
    train: TrainConfig = LATER
    """Length, batches and bookkeeping."""
    optimizer: OptimizerConfig = LATER
    """The outer optimizer."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Sharding and precision."""

    def __post_init__(self) -> None:
        for name, section in default_sections(self.method).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, section)


@dataclass(frozen=True)
class UNetConfig(Settings):
    """Architecture of a class-conditional UNet2DModel made from nothing."""

    block_out_channels: tuple[int, ...] = (32, 64)
    """Channels of each resolution."""
    layers_per_block: int = 1
    """ResNet layers in each block."""
    attention_head_dim: int = 8
    """Channels of one attention head."""
    attention_blocks: int = 0
    """How many of the lowest resolutions have attention."""
    norm_num_groups: int = 8
    """Groups of the group normalisation."""
    num_train_timesteps: int = 1000
    """Noise levels T."""
    beta_schedule: Literal["linear", "squaredcos_cap_v2"] = "linear"
    """Noise schedule."""
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the model predicts."""
    null_class: bool = True
    """Add one class, the last, for classifier-free guidance."""


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """Train a class-conditional diffusion model on a dataset, from nothing."""

    data: str
    """Dataset folder."""
    output: str
    """Run folder; the pipeline goes to model/ in it."""
    classes: tuple[str, ...] = ()
    """The model's classes in its order, absent ones too: names, or a file with a line for each (.json: a list). None
    given: the data's."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    """Architecture."""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(max_train_steps=900))
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
        object.__setattr__(self, "classes", _class_names(self.classes, "classes"))


@dataclass(frozen=True)
class SamplingConfig(Settings):
    """How images are generated."""

    guidance_scale: float = 1.5
    """w of classifier-free guidance, ε_∅ + w (ε_c - ε_∅); without effect where the model has no null class."""
    num_inference_steps: int = 25
    """DDIM steps."""
    seed: int = 0
    """The i-th image is a function of the seed and i."""


@dataclass(frozen=True)
class SampleConfig(Settings):
    """Generate a grid of images, a row for each class."""

    model: ModelConfig
    """The model to sample."""
    output: str
    """The PNG file to write."""
    labels: tuple[int, ...] = ()
    """Classes, a row for each; none given: all of them without the null class."""
    num_images: int = 8
    """Images of each class."""
    scale: int = 8
    """Enlarge each pixel so many times."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How images are generated."""


@dataclass(frozen=True)
class RelearnConfig(Settings):
    """The relearning test: how fast the forgotten comes back when the model is trained on a little of it."""

    num_images: int = 32
    """Forget images to fine-tune on."""
    num_steps: int = 40
    """Fine-tuning steps, a batch of all the images each."""
    num_points: int = 4
    """How often P_psi is measured on the way, evenly spread; step 0 comes on top."""
    num_samples: int = 100
    """Samples of the forgotten classes at each point."""
    learning_rate: float = 1e-4
    """Of AdamW."""


@dataclass(frozen=True)
class JudgeConfig(Settings):
    """What is measured, how, and what must hold."""

    retrained: str | None = None
    """The yardstick, trained without D_f: a pipeline folder, or the record.json of an evaluation that measured it."""
    with_retrained: bool = False
    """Train the yardstick on D_r with the settings that `erasediff pretrain` trained the original model with."""
    held_out: str | None = None
    """Dataset folder that no model was trained on: membership, the AUC of telling D_f from it by the loss."""
    relearn: bool = False
    """Fine-tune on a few forget images and measure how fast P_psi returns."""
    relearning: RelearnConfig = field(default_factory=RelearnConfig)
    """How, with relearn."""
    features: str = "classifier"
    """Feature extractor: classifier, inception (needs torch-fidelity), or the folder of a CLIP model."""
    classifier: str | None = None
    """A classifier.safetensors that an earlier evaluation wrote; none: one is trained on the data."""
    num_forget_samples_per_class: int = 500
    """Samples of each forgotten class; where single samples are forgotten, of each of their classes."""
    num_remain_samples_per_class: int = 200
    """Samples of each remaining class. Fewer are quicker, and may be too few to show that no class was harmed."""
    thresholds: tuple[str, ...] = ()
    """What the scrubbed model must hold, such as 'p_psi_worst_class <= 0.1', 'accuracy_remaining >= unscrubbed - 0.02'
    or 'frechet_distance[digits-cnn] <= 1.5 * unscrubbed'; none: as docs/record.md says."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How images are generated."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    num_threads: int | None = None
    """Threads of one rank on CPU; none takes torch's choice."""


@dataclass(frozen=True)
class EvaluateConfig(Settings):
    """Measure a scrubbed model beside the one it came from, and write record.json and report.html."""

    run: str
    """Run folder of a finished scrub; the record and the report go there."""
    data: str
    """Dataset folder with samples of every class: a classifier is trained on it to judge the samples."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """What is measured, how, and what must hold."""


@dataclass(frozen=True)
class EraseConfig(Settings):
    """Carry an erasure request from the list of samples to a published model, or publish nothing."""

    request: str
    """Erasure request, .toml or .json: id, date, reason, and selectors of samples."""
    model: ModelConfig
    """The model to scrub."""
    data: str
    """Dataset folder the model was trained on."""
    output: str
    """Folder for split/, scrub/, record.json, report.html and, as `publish` says, model/."""
    method: MethodConfig = field(default_factory=EraseDiffConfig)
    """How to forget."""
    train: TrainConfig = LATER
    """Length, batches and bookkeeping."""
    optimizer: OptimizerConfig = LATER
    """The outer optimizer."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Sharding and precision."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """What is measured, how, and what must hold."""
    publish: Literal["shown", "within-limits"] = "shown"
    """shown: only a model that is shown to have forgotten and to hold every threshold. within-limits: also where that
    is not shown (too few samples, or nothing that tells forgetting), as long as every figure is within its limit."""

    def __post_init__(self) -> None:
        for name, section in default_sections(self.method).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, section)


@dataclass(frozen=True)
class DemoConfig(Settings):
    """Build a dataset of real digits, train a model on it, erase one digit, and show the evidence."""

    output: str = "demo"
    """Folder for everything the demo makes."""
    forget_label: int = 3
    """The digit to erase."""
