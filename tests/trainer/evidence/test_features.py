"""A CLIP model's features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.evidence.classifier import load_classifier
from erasediff.trainer.evidence.features import make_features
from evidence_cases import make_clip
from safetensors.torch import load_file, save_file


def test_features_of_a_clip_model(classifier: Path, tmp_path: Path) -> None:
    network = make_clip(tmp_path / "tiny-clip")
    features = make_features(str(tmp_path / "tiny-clip"), load_classifier(classifier))
    assert features.name == "clip-tiny-clip" and features.num_features == 6
    # at CLIP's own resolution only its mean and spread are left to apply
    images = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    with torch.no_grad():
        expected = network(pixel_values=(images - mean) / std).image_embeds
    torch.testing.assert_close(features(images * 2 - 1), expected, rtol=1e-4, atol=1e-5)
    assert features(torch.zeros(2, 1, 8, 8)).shape == (2, 6)
    # what transformers would fill with random numbers
    weights = load_file(tmp_path / "tiny-clip" / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "tiny-clip" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"has no weights for visual_projection\.weight"):
        make_features(str(tmp_path / "tiny-clip"), load_classifier(classifier))
