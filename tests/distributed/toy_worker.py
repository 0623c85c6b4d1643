"""Runs on every rank of one world size: the toy family and the documented method through every seam.

Arguments: the folder with the data, the one for results.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from erasediff.trainer import EraseDiffConfig
from erasediff.trainer.config import (
    EngineConfig,
    EvaluateConfig,
    JudgeConfig,
    ModelConfig,
    OptimizerConfig,
    Precision,
    RelearnConfig,
    SampleConfig,
    SamplingConfig,
    ScrubConfig,
    TrainConfig,
)
from erasediff.trainer.config.methods import method_kind
from erasediff.trainer.engine.sharded_model import ShardedModel
from erasediff.trainer.errors import TrainingError
from erasediff.trainer.evidence.collect import run_evaluate
from erasediff.trainer.evidence.detector import Box, DetectorCard, count_parts
from erasediff.trainer.methods.siss import SISSConfig
from erasediff.trainer.models.families import load_model
from erasediff.trainer.ranks import collectives
from erasediff.trainer.sample import run_sample
from erasediff.trainer.scrubbing import dry_run, run_scrub

DATA, OUT = Path(sys.argv[1]), Path(sys.argv[2])
SAMPLING = SamplingConfig(num_inference_steps=3, batch_size=40)


class Killed(Exception):
    pass


def config(name: str, method: Any, steps: int = 6, precision: Precision = "fp32", sets: str = "split") -> ScrubConfig:
    return ScrubConfig(
        model=ModelConfig(str(DATA / "model")),
        forget=str(DATA / sets / "forget"),
        remain=str(DATA / sets / "remain"),
        output=str(OUT / name),
        method=method,
        train=TrainConfig(max_train_steps=steps, train_batch_size=8, checkpointing_steps=2, descent_every=2),
        engine=EngineConfig(device="cpu", num_threads=1, zero_stage=3 if name == "frozen" else 2, precision=precision),
    )


class Lit:
    """Finds pictures by how bright they are."""

    card = DetectorCard("lit", "1", "", ("LIT",), 0.0)

    def __call__(self, pictures_NHWC: np.ndarray) -> list[list[Box]]:
        return [[("LIT", picture.mean() / 255)] for picture in pictures_NHWC]


def kill(step: int, _: ShardedModel) -> None:
    if step == 5:
        raise Killed


def main() -> None:
    said = dry_run(config("rl", EraseDiffConfig()))
    told: dict[str, Any] = {
        "trains": "4 tensors" in said,
        "family": type(load_model(ModelConfig(str(DATA / "model")))).__name__,
    }
    run_scrub(config("rl", EraseDiffConfig()))
    # the autoencoder and the embeddings could train: nothing may flow into them
    run_scrub(config("frozen", EraseDiffConfig(teacher="frozen", gradient_of_g="first_order", anchor="a nine")))
    run_scrub(config("neighbours", EraseDiffConfig(target="neighbours")))
    run_scrub(config("siss", SISSConfig(), sets="some"))
    run_scrub(config("rounded", EraseDiffConfig(target="doubled"), precision="bf16"))
    judge = JudgeConfig(
        num_forget_samples_per_class=8,
        num_remain_samples_per_class=15,
        thresholds=("accuracy_remaining >= 0",),
        relearn=True,
        relearning=RelearnConfig(num_images=4, num_steps=2, num_points=2, num_samples=4),
        sampling=SAMPLING,
        device="cpu",
        num_threads=1,
    )
    if (DATA / "classifier.safetensors").exists():
        judge = dataclasses.replace(judge, classifier=str(DATA / "classifier.safetensors"))
    run_evaluate(EvaluateConfig(str(OUT / "rl"), str(DATA / "data"), judge))
    run_sample(
        SampleConfig(ModelConfig(str(OUT / "rl" / "model")), str(OUT / "grid.png"), num_images=1, sampling=SAMPLING)
    )
    averaged = method_kind("averaged")("averaged")
    run_scrub(config("whole", averaged))
    try:
        run_scrub(config("killed", averaged), watch=kill)
    except Killed:
        told["stopped"] = True
    run_scrub(config("killed", averaged))
    run_scrub(config("started", method_kind("started")("started"), steps=1))
    # overflows at once: every later step is left out
    overflowing = config("overflowing", averaged, steps=3)
    train, sgd = dataclasses.replace(overflowing.train, non_finite="skip"), OptimizerConfig("sgd", 1e30)
    run_scrub(dataclasses.replace(overflowing, train=train, optimizer=sgd))
    pictures = torch.linspace(-1, 1, 7).view(7, 1, 1, 1).expand(7, 1, 4, 4)
    parts = count_parts(Lit(), pictures, (0.25, 0.75), torch.device("cpu"))
    told["parts"] = collectives.gather(parts[:, 0].tolist())
    # whatever rank 0 meets, no rank waits for it
    try:
        collectives.on_main(lambda: {}["nothing"])
    except (KeyError, TrainingError) as error:
        told["raised"] = collectives.gather(type(error).__name__)
    if collectives.is_main():
        (OUT / "told.json").write_text(json.dumps(told))
    torch.distributed.barrier()
    collectives.end_process(0)


if __name__ == "__main__":
    main()
