"""How much of its prompt a picture shows, by a tiny CLIP model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.clip_score import clip_sha256, load_clip
from erasediff.trainer.evidence.formulas import clip_score_forgotten
from erasediff.trainer.evidence.images import Images
from evidence_cases import edit_json, make_clip, make_whole_clip
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPProcessor

CPU = torch.device("cpu")
PROMPTS = ["a red one", "a blue two", "photo of three", "an image of a green photo of a blue seven", "a", "five"]


def test_scores_are_those_of_transformers_clip(tmp_path: Path) -> None:
    """A picture and its prompt at a time, through CLIP's logits; more of them than go at a time here."""
    network = make_whole_clip(tmp_path / "tiny")
    clip = load_clip(str(tmp_path / "tiny"))
    assert clip.name == "clip-tiny"
    images = torch.rand(70, 3, 16, 14, generator=torch.Generator().manual_seed(1)) * 2 - 1
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(70)]
    found = clip(images, prompts, CPU)
    processor: Any = CLIPProcessor.from_pretrained(tmp_path / "tiny")
    expected = []
    for image, prompt in zip(images, prompts, strict=True):
        picture = Image.fromarray(((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy())
        given = processor(text=[prompt], images=picture, return_tensors="pt", truncation=True, max_length=8)
        with torch.no_grad():
            expected.append(100 * network(**given).logits_per_image.item() / network.logit_scale.exp().item())
    assert min(expected) < -1 and max(expected) > 1, "both below and above what is cut"
    assert found.tolist() == pytest.approx([max(value, 0) for value in expected], abs=1e-3)
    grey = clip(images[:3, :1], prompts[:3], CPU)
    assert torch.equal(grey, clip(images[:3, :1].expand(-1, 3, -1, -1), prompts[:3], CPU))
    assert clip(images[:0], [], CPU).tolist() == []


def test_what_else_changes_figures_is_hashed(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    make_whole_clip(folder)
    first = clip_sha256(str(folder))
    assert first == clip_sha256(str(folder)) and clip_sha256(None) is None
    about = folder / "processor_config.json"
    before = about.read_text()
    assert "0.4" in before
    about.write_text(before.replace("0.4", "0.3"))
    assert clip_sha256(str(folder)) != first, "another mean of pixels"
    about.write_text(before)
    assert clip_sha256(str(folder)) == first
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert clip_sha256(str(folder)) != first, "other weights"


def test_folders_that_hold_no_whole_clip(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"

    def refused(message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_clip(str(folder))

    refused("name the folder of a CLIP model, as `save_pretrained` writes it")
    make_clip(folder)
    refused("has no processor: save the model's there, too")
    make_whole_clip(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(r"has no weights for text_projection\.weight: name a whole CLIP model")
    (folder / "model.safetensors").write_bytes(b"not at all")
    refused("cannot be loaded: ")
    edit_json(folder / "config.json", model_type="clip_vision_model")
    refused("is a model of type 'clip_vision_model', not CLIP with its text encoder")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(r"holds no \.safetensors weights: pickled ones are not read")


def test_where_no_sample_is_finite_there_is_no_score() -> None:
    none = Images(torch.zeros(0, 3, 4, 4), torch.zeros(0), [], seed=5)
    of: Any = SimpleNamespace(forget=none, bench=SimpleNamespace(clip=SimpleNamespace(name="clip-tiny")))
    found = clip_score_forgotten(of)
    assert (found.value, found.n, found.seed, found.features, found.reason) == (
        *(None, 0, 5, "clip-tiny"),
        "no finite sample",
    )
