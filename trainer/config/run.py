"""A run: its optimizer, how it is sharded, how long it is. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from .base import AtLeast0, AtLeast1, Decay, NotNegative, Positive, Probability, Seed, Settings, Share

Precision = Literal["fp32", "tf32", "bf16-autocast", "bf16"]
Service = Literal["tensorboard", "wandb"]
LRSchedule = Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"]

# the share of the old weights that an average may still hold at the end of a run
MAX_OLD_WEIGHTS = 0.05


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """The outer optimizer, which applies δ to θ."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """adamw, adam or sgd."""
    learning_rate: Positive = 1e-4
    """Peak learning rate; with erasediff's noise target 3e-4 by default."""
    lr_scheduler: LRSchedule = "constant"
    """Schedule of the learning rate over max_train_steps."""
    lr_warmup_steps: AtLeast0 = 0
    """Steps over which the learning rate rises from 0; with every schedule but constant."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of Adam's moments."""
    eps: Positive = 1e-8
    """Adam's epsilon."""
    weight_decay: NotNegative = 0.0
    """Decoupled for adamw, L2 for adam and sgd."""
    momentum: Decay = 0.0
    """Of sgd."""
    max_grad_norm: Positive | None = None
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
    """ZeRO stage. 1 and 2 are the same here: optimizer state and gradients in shards, one reduction a loss. 3: weights
    in shards, too, gathered for each pass, by DeepSpeed."""
    precision: Precision = "fp32"
    """fp32; tf32: products of the GPU's tensor cores in TF32, but fp32 where g or ∇g is a difference (docs/methods.md);
    bf16-autocast: the same with bf16 arithmetic on fp32 weights; bf16: bf16 weights, fp32 master weights and sums."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    forward_batch_size: AtLeast1 | None = None
    """Most samples in one forward pass on one rank; a batch is split into as many micro-batches as that takes."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """The type gradients are summed over ranks in. bf16 halves their traffic, costs 2e-3 relative error."""
    reduce_bucket_size: AtLeast1 = 50_000_000
    """Elements reduced at once; smaller ones overlap more, larger ones cost fewer calls."""
    overlap_communication: bool = True
    """Reduce gradients while the backward pass still runs; at stage 3 needs a reduce_bucket_size that holds every
    parameter, and does nothing on one rank."""
    persistence_threshold: AtLeast0 = 100_000
    """At stage 3: parameters of at most so many elements stay whole on every rank; 0 shards all of them. On one
    rank all stay whole."""
    activation_checkpointing: Literal["off", "inner", "all"] = "off"
    """Make a block's activations again in the backward pass instead of keeping them: less memory, one more forward pass
    a gradient. In the inner loop's gradients alone (inner), or in all."""
    activation_checkpointing_share: Share = 1.0
    """Of the blocks that can, this share does so, those with the fewest weights first: in a U-Net they have the largest
    activations."""
    attention: Literal["native", "xformers", "flash"] = "native"
    """Kernels of the model's attention: torch's own; on CUDA those of xformers, or FlashAttention's, in bf16 alone."""
    compile: bool = False
    """torch.compile of the model's blocks, each by itself; the first steps take minutes. Stages 1 and 2 alone."""
    channels_last: bool = False
    """Pictures inside the model lie with their channels last in memory, as tensor cores' convolutions want them."""
    cudnn_benchmark: bool = False
    """On CUDA: cuDNN times its convolutions at each new shape and takes the fastest."""
    num_threads: AtLeast1 | None = None
    """Threads of one rank on CPU; none takes torch's choice. Results depend on it in the last bits."""
    # torch counts a timeout in nanoseconds, in 64 bits
    step_timeout_seconds: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] = 1800.0
    """When no rank's step has moved for so long, the run ends and says which ranks are missing."""
    deterministic: bool = False
    """On CUDA: bit-for-bit repeatable arithmetic, slower. CPU always is."""

    def __post_init__(self) -> None:
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "engine.compile is for whole weights, and engine.zero_stage = 3 gathers them inside the blocks: use "
                "engine.zero_stage = 2, or leave engine.compile out"
            )
        for option in ("compile", "cudnn_benchmark"):
            if self.deterministic and getattr(self, option):
                raise ValueError(
                    f"engine.{option} times kernels and takes the fastest, which another run may find otherwise: with "
                    "engine.deterministic leave it out"
                )
        if self.attention == "native":
            return
        option = f"engine.attention = {self.attention!r}"
        if self.device == "cpu":
            raise ValueError(f"{option} runs on CUDA alone: with engine.device = 'cpu' leave it 'native'")
        if self.deterministic:
            raise ValueError(f"{option} is not repeatable bit for bit: with engine.deterministic leave it 'native'")
        if self.attention == "flash" and self.precision in ("fp32", "tf32"):
            raise ValueError(
                f"{option} computes in bf16: set engine.precision to 'bf16-autocast' or 'bf16', or leave it 'native'"
            )


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Length, batches and bookkeeping of a run."""

    max_train_steps: AtLeast1 = 100
    """Outer steps T; with erasediff's noise target 150 by default."""
    train_batch_size: AtLeast1 = 64
    """Samples a loss sees in one step, over all ranks."""
    seed: Seed = 0
    """Everything random is a function of it, the step and the sample."""
    label_drop: Probability | None = None
    """Chance that a remain sample's class becomes the null class; none: 0.1 where there is a null class, else 0."""
    forget_label_drop: Probability = 0.0
    """The same for forget samples, for the trained model only, not for the rl target."""
    non_finite: Literal["stop", "skip"] = "stop"
    """A NaN or Inf loss or gradient ends the run, or only that step's update is left out."""
    max_loss_r_ratio: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = 3.0
    """A scrub ends, and writes no model, once the smoothed L_r is so many times its start. none: never."""
    max_bad_samples: AtLeast0 = 0
    """So many samples may turn out unreadable in an attempt: they count for nothing and are named. One more ends it."""
    dataloader_num_workers: AtLeast0 = 1
    """Threads a rank that read, decode and noise samples ahead of their step; 0 does it in the step."""
    checkpointing_steps: AtLeast0 = 0
    """Save a checkpoint every n steps; 0 never. The same command continues from the newest."""
    checkpoints_total_limit: AtLeast1 = 2
    """Newest checkpoints kept."""
    descent_every: AtLeast0 = 10
    """Log ⟨∇g, θ_t - θ_{t+1}⟩, what the optimizer made of the guarantee, on every n-th step; 0 never."""
    sample_every: AtLeast0 = 0
    """Draw what the model makes of the forgotten and of the rest every n steps, into samples/ of the run; 0 never."""
    report_to: tuple[Service, ...] = ()
    """Services that get each step's figures, and such samples: tensorboard, into tensorboard/ of the run; wandb. Their
    packages are extras of these names."""
    layers: tuple[str, ...] = ("full",)
    """What trains: full, xattn, noxattn, selfattn, notime, xlayer, selflayer (docs/stable-diffusion.md), or patterns of
    parameters' names such as 'mid_block.*'; several add up."""
