"""A request of words on a tiny pipeline, as several tests draw it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from erasediff.trainer.config import ConceptConfig, GenerateConfig, ModelConfig, SamplingConfig

REQUEST = """\
concept = ["three"]
remain = ["one", "two"]
phrasings = ["a red {}", "an image of a {}"]
"""
SAMPLING = SamplingConfig(num_inference_steps=3, guidance_scale=2.0, seed=5, batch_size=3)


def config_of(given: Path, output: Path, **changes: Any) -> ConceptConfig:
    config = ConceptConfig(
        request=str(given / "request.toml"),
        model=ModelConfig(str(given / "model")),
        output=str(output),
        generate=GenerateConfig(num_forget_images=4, num_remain_images=9, sampling=SAMPLING),
        device="cpu",
    )
    return dataclasses.replace(config, **changes)
