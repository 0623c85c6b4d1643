"""Feature extractors: what images are compared by. A metric carries its extractor's name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .classifier import Classifier
from .errors import ConfigError

_CHUNK = 64


class Features(Protocol):
    """Turns images [N, C, H, W] in [-1, 1] into features [N, D] on the CPU."""

    @property
    def name(self) -> str: ...
    @property
    def num_features(self) -> int: ...
    def __call__(self, images_NCHW: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ClassifierFeatures:
    """The last layer but one of the classifier that judges the samples."""

    classifier: Classifier

    @property
    def name(self) -> str:
        return self.classifier.card.name

    @property
    def num_features(self) -> int:
        return self.classifier.network.num_features

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        return self.classifier.features(images_NCHW)


@dataclass(frozen=True)
class NetworkFeatures:
    """A pretrained network with its own size, mean and spread of pixels."""

    name: str
    num_features: int
    network: nn.Module
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @torch.no_grad()
    def __call__(self, images_NCHW: Tensor) -> Tensor:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        chunks = []
        for chunk in images_NCHW.split(_CHUNK):
            pixels = F.interpolate((chunk + 1) / 2, self.image_size, mode="bicubic", antialias=True).clamp(0, 1)
            chunks.append(self.network((pixels.expand(-1, 3, -1, -1) - mean) / std))
        return torch.cat(chunks)


def make_features(option: str, classifier: Classifier) -> Features:
    """The extractor that `judge.features` names; raises ConfigError where its weights or its package are not there."""
    if option == "classifier":
        return ClassifierFeatures(classifier)
    if option == "inception":
        return _inception()
    return _clip(Path(option))


def features_name(option: str, classifier_name: str) -> str:
    """The name `make_features` would give, without loading anything."""
    if option == "classifier":
        return classifier_name
    return "inception-v3" if option == "inception" else f"clip-{Path(option).resolve().name}"


class _ClipImage(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).image_embeds


def _clip(folder: Path) -> NetworkFeatures:
    if not (folder / "config.json").exists():
        raise ConfigError(f"judge.features = '{folder}': classifier, inception, or the folder of a CLIP model")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"judge.features = '{folder}' holds no .safetensors weights: pickled ones are not read")
    from transformers import CLIPVisionModelWithProjection

    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise ConfigError(f"judge.features = '{folder}' is a model of type {kind!r}, not CLIP")
    vision = CLIPVisionModelWithProjection.from_pretrained(folder, use_safetensors=True).eval()
    size = vision.config.image_size
    if not isinstance(size, int):
        raise ConfigError(f"judge.features = '{folder}': image_size {size} in its config.json is not one number")
    return NetworkFeatures(
        name=features_name(str(folder), ""),
        num_features=vision.config.projection_dim,
        network=_ClipImage(vision),
        image_size=size,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )


class _InceptionPool(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network((pixels * 255).round().to(torch.uint8)).reshape(len(pixels), -1)


def _inception() -> NetworkFeatures:
    try:
        import torch_fidelity  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "judge.features = 'inception' needs torch-fidelity, which is not installed: "
            "pip install torch-fidelity, or use judge.features = 'classifier'"
        ) from None
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"]).eval()
    return NetworkFeatures(features_name("inception", ""), 2048, _InceptionPool(network), 299, (0.0,) * 3, (1.0,) * 3)
