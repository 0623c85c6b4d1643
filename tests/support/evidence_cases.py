"""A tiny scrub with its evidence, for tests of what is measured and written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from erasediff.shards.dataset import Dataset
from erasediff.shards.requests.split import split
from erasediff.trainer.config import EvaluateConfig, JudgeConfig, RelearnConfig, SamplingConfig
from erasediff.trainer.evidence.classifier import train_classifier
from erasediff.trainer.evidence.intervals import score_interval
from erasediff.trainer.evidence.metrics import Measurement
from erasediff.trainer.scrubbing import run_scrub
from safetensors.numpy import load_file
from tiny import tiny_config
from tiny_text import make_tokenizer
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

TWELVE = [f"digit-{i:05d}" for i in range(5, 1200, 100)]


def make_run(digits: Path, model: Path, folder: Path) -> Path:
    """A finished scrub of three steps."""
    run_scrub(tiny_config(digits, model, folder))
    return folder


def make_classifier(digits: Path, path: Path) -> Path:
    train_classifier(Dataset.open(digits / "data"), image_size=8, channels=1, num_epochs=4).save(path)
    return path


def make_clip(folder: Path, seed: int = 0) -> CLIPVisionModelWithProjection:
    """A CLIP model of random weights for images of 12 pixels, saved as transformers does."""
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=12,
        patch_size=4,
        projection_dim=6,
    )
    network = CLIPVisionModelWithProjection(config).eval()
    network.save_pretrained(folder)
    return network


def make_whole_clip(folder: Path, seed: int = 0) -> Any:
    """A CLIP model of random weights with its tokenizer and its processor, for pictures of 12 pixels."""
    tokenizer = make_tokenizer(folder.with_name(folder.name + "-words"))
    torch.manual_seed(seed)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 8, "eos_token_id": tokenizer.eos_token_id}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"image_size": 12, "patch_size": 4}
    config = CLIPConfig(text_config=text | small, vision_config=vision | small, projection_dim=6)
    network = CLIPModel(config).eval()
    network.save_pretrained(folder)
    CLIPProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size=12, image_mean=[0.4, 0.5, 0.6]), tokenizer
    ).save_pretrained(folder)
    return network


def tiny_judge(classifier: Path | None, **options: Any) -> JudgeConfig:
    """Few samples in few steps; just enough for the Fréchet distance."""
    chosen = {
        "num_forget_samples_per_class": 12,
        "num_remain_samples_per_class": 15,
        "sampling": SamplingConfig(num_inference_steps=2),
        "thresholds": ("accuracy_remaining >= 0",),
        "relearning": RelearnConfig(num_images=4, num_steps=2, num_points=2, num_samples=6),
        "device": "cpu",
        "num_threads": 1,
    }
    return JudgeConfig(classifier=None if classifier is None else str(classifier), **chosen | options)


def tiny_evaluation(run: Path, digits: Path, classifier: Path | None, **options: Any) -> EvaluateConfig:
    return EvaluateConfig(run=str(run), data=str(digits / "data"), judge=tiny_judge(classifier, **options))


def sha256_of_file(pipeline: Path) -> str:
    """The weights' hash as docs/record.md defines it, from the file and with numpy alone."""
    tensors = load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors")
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value, dtype="<f4").tobytes())
    return digest.hexdigest()


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def share(value: float, n: int = 500) -> Measurement:
    low, high = score_interval(value, n)
    return Measurement(value, n, low=low, high=high)


def of_classes(*values: float, n: int = 500) -> Measurement:
    """A mean over classes called c0, c1, …"""
    by_class = {f"c{i}": share(value, n) for i, value in enumerate(values)}
    return dataclasses.replace(share(sum(values) / len(values), n * len(values)), by_class=by_class)


def forget_twelve(digits: Path, model: Path, folder: Path) -> Path:
    """A model that twelve samples were scrubbed from, on request r-1."""
    request = folder / "request.toml"
    request.write_text(
        f'id = "r-1"\ndate = 2026-11-20\nreason = "secret"\n[[selectors]]\nkeys = {json.dumps(TWELVE)}\n'
    )
    split(digits / "data", folder / "split", request=request)
    return run_scrub(tiny_config(folder, model, folder / "run"))


@dataclasses.dataclass
class Sampled:
    """A model's figures with what its samples did to them, as `pairing` asks for them."""

    metrics: dict[str, Measurement]
    influences: dict[str, dict[str, torch.Tensor]]
    num_non_finite: int = 0
