"""What the engine is compared on: cases, and a tiny real model with its batches."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DModel
from erasediff.trainer import EraseDiffConfig, FinetuneConfig, MOOConfig
from erasediff.trainer.config import MethodConfig, OptimizerConfig
from erasediff.trainer.methods.blindspot import BlindspotConfig
from erasediff.trainer.methods.esd import ESDConfig
from erasediff.trainer.methods.meta_erasediff import MetaEraseDiffConfig
from erasediff.trainer.methods.munba import MUNBaConfig
from erasediff.trainer.methods.neggrad import NegGradConfig
from erasediff.trainer.methods.restricted_gradient import RestrictedGradientConfig
from erasediff.trainer.methods.salun import SalUnConfig
from erasediff.trainer.methods.selective_amnesia import SelectiveAmnesiaConfig
from erasediff.trainer.methods.siss import SISSConfig
from torch import Tensor, nn

# where engine and reference run; tests/gpu sets it
DEVICE = torch.device(os.environ.get("ENGINE_TEST_DEVICE", "cpu"))
GLOBAL_BATCH_SIZE = 7  # divides by neither 2 nor 3
MICRO_BATCH_SIZE = 3
NUM_ITERATIONS = 2  # the second goes on with the optimizer's state
NUM_CLASSES = 3

METHODS: dict[str, MethodConfig] = {
    "envelope-norm": EraseDiffConfig(lambda_cap=None),
    "envelope-norm-frozen": EraseDiffConfig(lambda_cap=None, teacher="frozen"),
    "envelope-norm-logged-K3": EraseDiffConfig(lambda_cap=None, inner_every=1, num_inner_steps=3, xi=0.02),
    "envelope-value-K0": EraseDiffConfig(barrier="value", lambda_cap=None, num_inner_steps=0),
    "envelope-value-K1": EraseDiffConfig(barrier="value", lambda_cap=None, num_inner_steps=1, xi=0.02, eta=2.0),
    "envelope-value-K3": EraseDiffConfig(barrier="value", lambda_cap=None, num_inner_steps=3, xi=0.02, eta=2.0),
    "first_order-norm-K1": EraseDiffConfig(gradient_of_g="first_order", lambda_cap=None, num_inner_steps=1, xi=0.1),
    "first_order-norm-K3": EraseDiffConfig(gradient_of_g="first_order", lambda_cap=None, num_inner_steps=3, xi=0.1),
    "first_order-value-K3": EraseDiffConfig(
        gradient_of_g="first_order", barrier="value", lambda_cap=None, num_inner_steps=3, xi=0.1
    ),
    "first_order-norm-K0": EraseDiffConfig(gradient_of_g="first_order", lambda_cap=None, num_inner_steps=0),
    "capped": EraseDiffConfig(eta=5.0, lambda_cap=0.5),
    "moo": MOOConfig(weight=0.3),
    "meta": MetaEraseDiffConfig(eta=3.0, lambda_cap=None, num_relearning_steps=3, relearning_rate=0.01),
    "meta-at-phi": MetaEraseDiffConfig(eta=2.0, lambda_cap=0.7, relearning_rate=0.01, holds_theta=False),
    "esd": ESDConfig(),
    "munba": MUNBaConfig(),
    "restricted_gradient": RestrictedGradientConfig(),
    "neggrad": NegGradConfig(max_loss=1.5),  # between L(D_f) and L_r
    "neggrad-bounded": NegGradConfig(max_loss=1e-6, remain_weight=0.7),
    "neggrad-weighted": NegGradConfig(max_loss=1e6, remain_weight=0.7),
    "salun": SalUnConfig(saliency=0.3, num_mask_batches=3, remain_weight=0.6),
    "selective_amnesia": SelectiveAmnesiaConfig(
        penalty=0.3, remain_weight=0.6, num_fisher_batches=2, num_fisher_levels=2
    ),
    "blindspot": BlindspotConfig(alpha=0.3, num_proxy_steps=3),
    "siss": SISSConfig(forget_chance=0.3, forget_norm=0.6),
    "finetune": FinetuneConfig(),
}
OPTIMIZERS = {
    "sgd": OptimizerConfig(name="sgd", learning_rate=0.05, momentum=0.9),
    "adamw": OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=0.01, lr_scheduler="cosine"),
}
# relative to ‖θ_{t+1} - θ_t‖: Adam divides by a square root of rounding where a gradient is almost zero
THETA_TOLERANCE = {"sgd": 1e-5, "adamw": 1e-2}


@dataclass(frozen=True)
class Case:
    method: str
    optimizer: str
    zero_stage: int
    precision: str
    spread: str = "as it is by default"

    def __str__(self) -> str:
        spread = "" if self.spread not in SPREADS else f"-{self.spread}"
        return f"{self.method}-{self.optimizer}-zero{self.zero_stage}-{self.precision}{spread}"


# together they use every operation of the engine
_EVERY_OPERATION = ("envelope-norm", "envelope-value-K3", "first_order-norm-K3", "moo")
_STAGE_CASES = [Case(method, "sgd", stage, "fp32") for method in _EVERY_OPERATION for stage in (2, 3)] + [
    Case("envelope-value-K3", "sgd", 1, "fp32")  # 1 and 2 are the same code
]
# a method sees neither stage nor number of ranks
_METHOD_CASES = [Case(method, "sgd", 2, "fp32") for method in METHODS if method not in _EVERY_OPERATION]
# what sorts or counts over all ranks, or carries vectors of its own
_SHARDED_CASES = [
    Case(method, "sgd", stage, "fp32") for method in ("salun", "selective_amnesia", "blindspot") for stage in (2, 3)
] + [Case(method, "sgd", 3, "fp32") for method in ("meta", "siss")]
# nor does the optimizer, which is elementwise
_OPTIMIZER_CASES = [
    Case(method, "adamw", 2, "fp32") for method in ("envelope-norm", "first_order-value-K3", "finetune")
]
_ROUNDED_CASES = [
    Case(method, "sgd", stage, precision)
    for method in ("envelope-norm", "moo")
    for precision, stage in [("bf16", 1), ("bf16", 2), ("bf16", 3), ("bf16-autocast", 2), ("bf16-autocast", 3)]
] + [
    # the readings that look at small differences need fp32 weights
    Case(method, "sgd", stage, "bf16-autocast")
    for method, stage in itertools.product(("envelope-value-K3", "first_order-norm-K1"), (2, 3))
]
# at the default ξ, where bf16 arithmetic rounds the step from θ to φ^K away
DIFFERENCES = {
    "first_order": EraseDiffConfig(gradient_of_g="first_order", lambda_cap=None),
    "value": EraseDiffConfig(barrier="value", lambda_cap=None),
    "logged": EraseDiffConfig(inner_every=1, lambda_cap=None),
}
DIFFERENCE_CASES = [Case("first_order", "sgd", 2, "fp32"), Case("logged", "sgd", 2, "bf16-autocast")] + [
    Case(name, "sgd", stage, "bf16-autocast") for name in ("first_order", "value") for stage in (2, 3)
]

# how gradients and weights are cut and sent; the largest parameter has 648 elements, three in ten more than 60
SPREADS: dict[str, dict[str, Any]] = {
    "small-buckets": {"reduce_bucket_size": 100, "overlap_communication": False},
    "small-buckets-overlap": {"reduce_bucket_size": 100},
    "overlap": {"reduce_bucket_size": 700},
    "not-persistent": {"persistence_threshold": 60, "reduce_bucket_size": 700, "overlap_communication": False},
    "nothing-persistent-overlap": {"persistence_threshold": 0, "reduce_bucket_size": 700},
    "bf16-on-the-wire": {"reduce_dtype": "bf16", "reduce_bucket_size": 2000},
}
_SPREAD_CASES = [
    Case("first_order-norm-K1", "sgd", stage, "fp32", spread)
    for stage, spread in itertools.product((2, 3), SPREADS)
    # overlapping buckets of stage 3 must hold every parameter
    if "wire" not in spread and (stage == 3 or "persistent" not in spread)
    if (stage, spread) != (3, "small-buckets-overlap")
] + [Case("envelope-value-K3", "sgd", 3, "fp32", spread) for spread in SPREADS if "persistent" in spread]
_ROUNDED_SPREAD_CASES = [
    Case("envelope-norm", "sgd", stage, "bf16", spread)
    for stage, spread in [(2, "overlap"), (3, "not-persistent"), (3, "nothing-persistent-overlap")]
]
# what bf16 on the wire may add: 2⁻⁹ of a gradient for each rank's and once more for their sum
WIRE_CASES = [
    Case("moo", "sgd", stage, precision, "bf16-on-the-wire")
    for precision, stage in [("fp32", 2), ("fp32", 3), ("bf16-autocast", 2), ("bf16", 2)]
]


@dataclass(frozen=True)
class TrafficCase:
    """What a step sends, in vectors as long as θ."""

    case: Case
    reduced: int
    gathered: int

    def __str__(self) -> str:
        return str(self.case)


NUM_MICRO_BATCHES = 2  # a rank's, where there are two ranks; with three it has one
# a loss pays one reduction, φ^K and θ_{t+1} a publication each
TRAFFIC_CASES = [
    TrafficCase(Case("finetune", "sgd", 2, "fp32"), 1, 1),
    TrafficCase(Case("envelope-norm", "sgd", 1, "fp32"), 2, 1),
    TrafficCase(Case("envelope-norm", "sgd", 2, "fp32"), 2, 1),
    TrafficCase(Case("envelope-norm", "sgd", 2, "bf16", "bf16-on-the-wire"), 2, 1),
    TrafficCase(Case("envelope-norm", "sgd", 2, "bf16-autocast", "bf16-on-the-wire"), 1, 1),  # θ in fp32
    TrafficCase(Case("envelope-value-K1", "sgd", 2, "fp32"), 2, 2),
    TrafficCase(Case("first_order-norm-K3", "sgd", 2, "fp32"), 5, 4),
]
# DeepSpeed's: a reduction and a gathering for each micro-batch of a gradient, one gathering for all forward passes at
# the same weights, none before a gradient
_GATHERING = ("envelope-norm", "envelope-norm-frozen", "envelope-value-K1", "esd", "neggrad", "blindspot")
STAGE_3_TRAFFIC_CASES = [Case(method, "sgd", 3, "fp32", "nothing-persistent-overlap") for method in _GATHERING]
STAGE_3_TRAFFIC_CASES.append(Case("envelope-norm", "sgd", 3, "bf16"))  # all of it persistent


def exact_cases(world_size: int) -> list[Case]:
    """All on GPUs; on a CPU every operation at every stage, and the rest on one number of ranks."""
    if DEVICE.type == "cuda":
        more = [dataclasses.replace(case, zero_stage=3) for case in _METHOD_CASES]
        more += [dataclasses.replace(case, zero_stage=1) for case in _SPREAD_CASES if case.zero_stage == 2]
        return _STAGE_CASES + _METHOD_CASES + more + _OPTIMIZER_CASES + _SPREAD_CASES
    more = {1: _METHOD_CASES, 2: _OPTIMIZER_CASES + _SPREAD_CASES + _SHARDED_CASES, 3: _SHARDED_CASES[:1]}
    return _STAGE_CASES + more.get(world_size, [])


def rounded_cases(world_size: int) -> list[Case]:
    """The same in bf16."""
    if world_size == 2 or DEVICE.type == "cuda":
        return _ROUNDED_CASES + _ROUNDED_SPREAD_CASES
    return [case for case in _ROUNDED_CASES if case.method == "envelope-norm"]


class OddUNet(nn.Module):
    """A real, tiny class-conditional UNet, and parameters of odd sizes, one of which only one loss uses."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            sample_size=4,
            in_channels=1,
            out_channels=1,
            block_out_channels=(6,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            layers_per_block=1,
            norm_num_groups=2,
            add_attention=False,
            num_class_embeds=NUM_CLASSES,
        )
        self.scale = nn.Parameter(torch.tensor([1.1]))
        self.remain_only = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, uses_all: bool) -> Tensor:
        output = self.unet(x, t, class_labels=labels, return_dict=False)[0] * self.scale
        return output + self.remain_only.square().sum() if uses_all else output


@dataclass(frozen=True)
class ToyBatch:
    x: Tensor
    t: Tensor
    labels: Tensor
    target: Tensor
    weights: Tensor
    uses_all: bool
    importance: Tensor | None = None

    def rows(self, rows: list[int], weights: list[float]) -> ToyBatch:
        return dataclasses.replace(
            self,
            x=self.x[rows],
            t=self.t[rows],
            labels=self.labels[rows],
            target=self.target[rows],
            importance=None if self.importance is None else self.importance[rows],
            weights=torch.tensor(weights, device=DEVICE),
        )


def make_module() -> OddUNet:
    torch.manual_seed(0)
    return OddUNet().to(DEVICE)


def fresh_weights() -> dict[str, Tensor]:
    """Of such a module, other than `make_module`'s."""
    torch.manual_seed(1)
    return dict(OddUNet().named_parameters())


def global_batch(iteration: int, uses_all: bool) -> ToyBatch:
    generator = torch.Generator().manual_seed(100 * iteration + uses_all)
    shape = (GLOBAL_BATCH_SIZE, 1, 4, 4)
    return ToyBatch(
        x=torch.randn(shape, generator=generator).to(DEVICE),
        t=torch.randint(1000, (GLOBAL_BATCH_SIZE,), generator=generator).to(DEVICE),
        labels=torch.randint(NUM_CLASSES, (GLOBAL_BATCH_SIZE,), generator=generator).to(DEVICE),
        target=torch.randn(shape, generator=generator).to(DEVICE),
        weights=torch.ones(GLOBAL_BATCH_SIZE, device=DEVICE),
        uses_all=uses_all,
    )


def micro_batches(batch: ToyBatch, rank: int, world_size: int) -> list[ToyBatch]:
    """A rank's slice of a global batch, filled up with samples of weight 0, in micro-batches."""
    num_rows = -(-GLOBAL_BATCH_SIZE // world_size)
    places = range(rank * num_rows, (rank + 1) * num_rows)
    rows = [min(place, GLOBAL_BATCH_SIZE - 1) for place in places]
    weights = [float(place < GLOBAL_BATCH_SIZE) for place in places]
    return [
        batch.rows(rows[i : i + MICRO_BATCH_SIZE], weights[i : i + MICRO_BATCH_SIZE])
        for i in range(0, num_rows, MICRO_BATCH_SIZE)
    ]


def at_level(batch: ToyBatch, level: int) -> ToyBatch:
    return dataclasses.replace(batch, t=(batch.t + 300 * level) % 1000, x=batch.x * (1 + level))


def own_target(batch: ToyBatch) -> ToyBatch:
    """As eq. (1) has it: another than what D_f is pulled towards."""
    return dataclasses.replace(batch, target=-batch.target)


def mixtures(remain: ToyBatch, forget: ToyBatch, forget_chance: float) -> tuple[ToyBatch, ToyBatch]:
    """The forgotten sample's input where its first number is small, and an importance that follows from the input."""
    from_forget = forget.x.flatten(1)[:, 0] < 3 * forget_chance
    x = torch.where(from_forget.view(-1, 1, 1, 1), forget.x, remain.x)
    given = {"x": x, "t": forget.t, "labels": torch.where(from_forget, forget.labels, remain.labels)}
    given["weights"], share = remain.weights * forget.weights, x.flatten(1).mean(1).sigmoid()
    as_forget = dataclasses.replace(forget, importance=(1 - share) / forget_chance, **given)
    return dataclasses.replace(remain, importance=share / (1 - forget_chance), **given), as_forget


def per_sample_loss(forward: Callable[..., Tensor], batch: ToyBatch, dtype: torch.dtype) -> Tensor:
    output = forward(batch.x.to(dtype), batch.t, batch.labels, batch.uses_all)
    output = output.to(torch.promote_types(dtype, torch.float32))
    losses = (output - batch.target).square().flatten(1).mean(1)
    return losses if batch.importance is None else losses * batch.importance
