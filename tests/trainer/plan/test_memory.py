"""What a step is said to hold is what it holds: a real engine's storages, counted while a method's step runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from erasediff.shards import SampleBatch
from erasediff.trainer import EraseDiffConfig, FinetuneConfig
from erasediff.trainer.config import (
    EngineConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    ScrubConfig,
    TrainConfig,
    UNetConfig,
)
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.methods.blindspot import BlindspotConfig
from erasediff.trainer.methods.meta_erasediff import MetaEraseDiffConfig
from erasediff.trainer.methods.neggrad import NegGradConfig
from erasediff.trainer.methods.salun import SalUnConfig
from erasediff.trainer.methods.selective_amnesia import SelectiveAmnesiaConfig
from erasediff.trainer.models.families.unet2d import make
from erasediff.trainer.models.model import Model
from erasediff.trainer.objectives.diffusion import DiffusionObjective
from erasediff.trainer.objectives.objective import Batches
from erasediff.trainer.plan.memory import Parts, Situation, Traces, peak, type_of_forwards, types_of_gradients
from erasediff.trainer.plan.sizes import sizes_of
from erasediff.trainer.plan.trace import trace_encoding, trace_forward, trace_gradient
from erasediff.trainer.ranks import collectives
from held import Held

CPU = torch.device("cpu")


def model(device: str, width: int) -> Model:
    torch.manual_seed(0)
    with torch.device(device):
        return make(UNetConfig(block_out_channels=(width, 2 * width)), image_size=8, channels=1, num_classes=10)


@dataclass(frozen=True)
class Case:
    """All so large that the kernels' own memory, 4 MB on a CPU, is not what makes the peak."""

    width: int = 48
    method: MethodConfig = EraseDiffConfig(target="noise")  # noqa: RUF009 frozen
    num_micro_batches: int = 1
    num_samples: int = 6
    engine: EngineConfig = EngineConfig(device="cpu")  # noqa: RUF009
    optimizer: OptimizerConfig = OptimizerConfig()  # noqa: RUF009

    @property
    def config(self) -> ScrubConfig:
        engine = replace(self.engine, forward_batch_size=self.num_samples // self.num_micro_batches)
        # nothing is made ahead of a step, and no step is diagnosed
        train = TrainConfig(train_batch_size=self.num_samples, dataloader_num_workers=0, descent_every=0)
        return ScrubConfig(ModelConfig("none"), "none", "none", "none", self.method, train, self.optimizer, engine)


def predicted(case: Case) -> Parts:
    config, on_meta = case.config, model("meta", case.width)
    situation = Situation(
        config=config,
        sizes=sizes_of(on_meta),
        num_ranks=1,
        num_samples=case.num_samples,
        micro_batch=case.num_samples // case.num_micro_batches,
        on_cpu=False,  # as storages are counted: whole, from the time they are made
        encodes=False,
    )
    traces = Traces(
        {
            (kept_in, 0.0): trace_gradient(on_meta, kept_in, recomputed=0.0, on_cpu=True)
            for kept_in in types_of_gradients(config)
        },
        {kept_in: trace_forward(on_meta, kept_in, on_cpu=True) for kept_in in [type_of_forwards(config)]},
        trace_encoding(on_meta),
    )
    return peak(situation, traces)


def samples(seed: int, number: int) -> SampleBatch:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (number, 1, 8, 8), dtype=np.uint8)
    positions = np.arange(number)
    return SampleBatch(images, positions % 10, np.ones(number, np.float32), positions, ("",) * number)


def batches(objective: Any, case: Case) -> Batches:
    forget = objective.forget_batches(samples(1, case.num_samples)) if case.method.needs_forget else []
    return Batches(objective.remain_batches(samples(2, case.num_samples)), forget, ())


def measured(case: Case) -> tuple[int, ShardedModel]:
    """The most that a second step holds, batches included."""
    config, whole = case.config, model("cpu", case.width)
    collectives.set_up(config.engine)
    objective: Any = DiffusionObjective(
        whole,
        CPU,
        seed=0,
        label_drop=0.0,
        method=config.method,
        others=[1, 2],
        forward_batch_size=config.engine.forward_batch_size,
    )
    method: Any = config.method.make(objective)
    with Held() as held:
        engine = ShardedModel(
            whole.module,
            config.engine,
            config.optimizer,
            CPU,
            max_train_steps=2,
            keep_original=config.method.keeps_original,
            fresh=lambda: whole.fresh_weights(0),
        )
        method.prepare(engine, lambda _: batches(objective, case))
        for step in range(2):
            held.peak = 0
            given = batches(objective, case)
            update = method.step(engine, given.forget, given.remain, step, diagnose=False)
            engine.step(update.delta, step, update.skip)
            del update, given
    return held.peak, engine


STAGE_3 = EngineConfig(device="cpu", zero_stage=3, reduce_bucket_size=400_000)
VALUE = EraseDiffConfig(target="noise", barrier="value", num_inner_steps=1)
CASES = {
    "activations": Case(width=16, num_samples=12),
    "micro-batches": Case(num_micro_batches=3),
    "small-buckets": Case(engine=EngineConfig(device="cpu", reduce_bucket_size=40_000)),
    "value-K3": Case(method=replace(VALUE, num_inner_steps=3)),
    "first-order-frozen-teacher": Case(method=EraseDiffConfig(teacher="frozen", gradient_of_g="first_order")),
    "relearning": Case(method=MetaEraseDiffConfig(target="noise", num_relearning_steps=3)),
    "kept-mask": Case(method=SalUnConfig(num_mask_batches=1)),
    "kept-fisher": Case(method=SelectiveAmnesiaConfig(num_fisher_levels=2)),
    "kept-proxy": Case(method=BlindspotConfig(num_proxy_steps=1)),
    "neggrad": Case(method=NegGradConfig()),
    "neggrad-remain": Case(method=NegGradConfig(remain_weight=0.5)),
    "finetune-sgd-average": Case(
        method=FinetuneConfig(), optimizer=OptimizerConfig(name="sgd", momentum=0.9, ema_decay=0.5)
    ),
    "autocast": Case(method=VALUE, num_samples=3, engine=EngineConfig(device="cpu", precision="bf16-autocast")),
    "stage-3": Case(width=96, num_samples=3, engine=STAGE_3),
    "stage-3-bf16": Case(width=96, num_samples=1, engine=replace(STAGE_3, precision="bf16")),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_holds_what_the_plan_says(name: str) -> None:
    case = CASES[name]
    parts = predicted(case)
    found, engine = measured(case)
    theta = engine.theta.data.nbytes
    assert parts["master θ"] == theta
    assert parts["moments"] + parts["average"] == theta * len(engine.optimizer.vectors())
    assert parts["original"] == (0 if engine.original is None else theta)
    assert sum(parts.values()) == pytest.approx(found, rel=0.03)
