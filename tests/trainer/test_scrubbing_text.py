"""A scrubbed Stable Diffusion pipeline stands alone, and differs from its original in what was trained alone."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import Dataset, build, split
from erasediff.trainer.config import EngineConfig, ModelConfig, OptimizerConfig, ScrubConfig, TrainConfig
from erasediff.trainer.methods.erasediff import EraseDiffConfig
from erasediff.trainer.run import reading
from erasediff.trainer.scrubbing import plan, run_scrub
from PIL import Image
from safetensors.torch import load_file
from tiny_text import make_pipeline

ALONE = """
import sys
sys.modules["erasediff"] = None  # importing it raises
from diffusers import AutoPipelineForText2Image
pipeline = AutoPipelineForText2Image.from_pretrained(".", low_cpu_mem_usage=False)
pipeline.set_progress_bar_config(disable=True)
image = pipeline("a red three", height=16, width=16, num_inference_steps=2, output_type="np").images[0]
print(type(pipeline).__name__, image.shape, image.std() > 0)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ScrubConfig:
    """Three steps on the cross-attention of a model that is told captions."""
    folder = tmp_path_factory.mktemp("text")
    original = make_pipeline(folder / "original")
    draw, lines = np.random.default_rng(0), []
    for i in range(12):
        digit, ink = ("three", "two", "one")[i % 3], ("red", "blue")[i % 2]
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(json.dumps({"path": f"{i}.png", "caption": f"a {ink} {digit}", "label": digit}))
    (folder / "table.jsonl").write_text("\n".join(lines) + "\n")
    build(folder / "table.jsonl", folder / "data")
    split(folder / "data", folder / "split", ["three"])
    return ScrubConfig(
        model=ModelConfig(str(original)),
        forget=str(folder / "split" / "forget"),
        remain=str(folder / "split" / "remain"),
        output=str(folder / "run"),
        method=EraseDiffConfig(gradient_of_g="first_order", concept=("three",), anchor="two"),
        train=TrainConfig(max_train_steps=3, train_batch_size=4, layers=("xattn",), max_loss_r_ratio=None),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        engine=EngineConfig(device="cpu", activation_checkpointing="inner"),
    )


@pytest.fixture(scope="module")
def models(config: ScrubConfig) -> tuple[Path, Path]:
    """The original, and what became of it."""
    return Path(config.model.path), run_scrub(config)


def test_each_caption_is_read_once_before_training(config: ScrubConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster's file system a caption is a read of its own, and every rank reads them all."""
    read, text = list[str](), Dataset.text
    monkeypatch.setattr(Dataset, "text", lambda data, i: (read.append(data.key(i)), text(data, i))[1])
    planned = plan(config)
    planned.describe()
    stamped = planned.inputs().captions_sha256
    assert sorted(read) == sorted(Dataset.open(Path(config.forget).parent.parent / "data").keys)
    assert stamped.keys() == {"forget", "remain"}


def test_a_worker_that_encodes_images_is_not_held_to_one_thread(
    config: ScrubConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Callable[[], None] | None] = []

    def prefetch(make: object, *, start: int, num_workers: int, begin: Callable[[], None] | None) -> None:
        begun.append(begin)
        raise InterruptedError

    monkeypatch.setattr(reading, "Prefetch", prefetch)
    with pytest.raises(InterruptedError):
        run_scrub(dataclasses.replace(config, output=str(tmp_path / "run")))
    assert begun == [None]


def test_it_generates_where_erasediff_cannot_be_imported(models: tuple[Path, Path]) -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=models[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "StableDiffusionPipeline (16, 16, 3) True"


def test_the_trained_tensors_differ_and_nothing_else(models: tuple[Path, Path]) -> None:
    original, scrubbed = models
    files = {path.relative_to(original) for path in original.rglob("*") if path.is_file()}
    added = {path.relative_to(scrubbed) for path in scrubbed.rglob("*") if path.is_file()} - files
    assert {str(path) for path in added} == {"README.md", "erasediff.json"}
    weights = {path for path in files if path.suffix == ".safetensors"}
    assert {path.parts[0] for path in weights} == {"unet", "vae", "text_encoder"}
    for path in files - weights:
        assert (original / path).read_bytes() == (scrubbed / path).read_bytes(), path
    for path in weights:
        before, after = load_file(original / path), load_file(scrubbed / path)
        assert before.keys() == after.keys()
        changed = {name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()}
        assert changed == {name for name in before if path.parts[0] == "unet" and ".attn2." in name}, path
        assert all(before[name].dtype == after[name].dtype for name in before)
