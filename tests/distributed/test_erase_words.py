"""`erase` of words on two ranks: what one rank draws, scrubs, measures and publishes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from erasediff.launch.cli import main
from erasediff.shards import Dataset
from erasediff.trainer.config import (
    EngineConfig,
    EraseConfig,
    GenerateConfig,
    JudgeConfig,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    TrainConfig,
)
from erasediff.trainer.config.toml import dump_toml
from PIL import Image
from ranks import check, run_ranks
from safetensors.torch import load_file
from tiny_text import make_pipeline

REQUEST = """\
concept = "three"
remain = ["one", "two"]
phrasings = ["a red {}", "an image of a {}"]
held_out_phrasings = ["a photo of a {}"]
anchor = ["one", "two"]
"""
SAMPLING = SamplingConfig(num_inference_steps=2, batch_size=8)


@pytest.mark.slow
def test_two_ranks_forget_words_as_one_does(tmp_path: Path) -> None:
    make_pipeline(tmp_path / "model")
    (tmp_path / "request.toml").write_text(REQUEST)

    def settings(name: str) -> Path:
        config = EraseConfig(
            request=str(tmp_path / "request.toml"),
            model=ModelConfig(str(tmp_path / "model")),
            output=str(tmp_path / name),
            # no number of them fills the ranks' batches evenly
            generate=GenerateConfig(num_forget_images=13, num_remain_images=22, sampling=SAMPLING),
            optimizer=OptimizerConfig(name="sgd", learning_rate=1e-2),
            train=TrainConfig(max_train_steps=3, train_batch_size=4, max_loss_r_ratio=None),
            engine=EngineConfig(device="cpu", num_threads=1),
            judge=JudgeConfig(
                num_forget_samples_per_class=13,
                num_remain_samples_per_class=5,
                sampling=SAMPLING,
                device="cpu",
                num_threads=1,
                # random weights forget nothing: it is published by its limits
                thresholds=("accuracy_remaining >= 0",),
            ),
            publish="within-limits",
        )
        file = tmp_path / f"{name}.toml"
        file.write_text(dump_toml(config))
        return file

    assert main(["erase", str(settings("one"))]) == 0
    finished = run_ranks(2, ["-m", "erasediff.launch", "erase", str(settings("two"))])
    check(finished)
    assert "model" in finished[0].stdout and not finished[1].stdout
    one, two = tmp_path / "one", tmp_path / "two"
    for side, num_samples in (("forget", 13), ("remain", 22)):
        ours, theirs = (Dataset.open(folder / "split" / side) for folder in (one, two))
        assert len(ours) == len(theirs) == num_samples
        order = {theirs.key(i): i for i in range(num_samples)}
        for i in range(num_samples):
            j = order[ours.key(i)]
            assert ours.text(i) == theirs.text(j)
            pixels = [np.asarray(Image.open(io.BytesIO(found))) for found in (ours.read_bytes(i), theirs.read_bytes(j))]
            far = np.abs(pixels[0].astype(np.int16) - pixels[1])
            assert far.max() <= 1, "equal to rounding"
    weights = [load_file(folder / "model" / "unet" / "diffusion_pytorch_model.safetensors") for folder in (one, two)]
    before = load_file(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    moved = max(float((weights[0][name] - before[name]).abs().max()) for name in before)
    apart = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in before)
    assert moved > 1e-5 and apart < 0.02 * moved, (moved, apart)
    records: list[dict[str, Any]] = [json.loads((folder / "record.json").read_text()) for folder in (one, two)]
    assert records[0]["forgotten_classes"] == records[1]["forgotten_classes"] == ["three"]
    ours, theirs = (record["models"] for record in records)
    assert ours.keys() == theirs.keys()
    for model, figures in ours.items():
        for name, figure in figures["metrics"].items():
            other = theirs[model]["metrics"][name]
            assert other["n"] == figure["n"], name
            if figure["value"] is None:  # too few samples
                assert other["value"] is None and other["reason"] == figure["reason"]
                continue
            assert other["value"] == pytest.approx(figure["value"], rel=1e-2, abs=1e-2), (model, name)
