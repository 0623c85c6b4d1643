"""Feature extractors: what images are compared by. A metric carries its extractor's name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import ConfigError
from ..models.hashing import weights_sha256
from .classifier import Classifier

_CHUNK = 64
_INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


class Features(Protocol):
    """Turns images [N, C, H, W] in [-1, 1] into features [N, D] on the CPU."""

    @property
    def name(self) -> str: ...
    @property
    def num_features(self) -> int: ...
    @property
    def sha256(self) -> str | None:
        """Of what they are made with; None for the judge's, whose card has it."""
        ...

    def __call__(self, images_NCHW: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ClassifierFeatures:
    """The last layer but one of the classifier that judges the samples."""

    classifier: Classifier
    sha256: str | None = None

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
    sha256: str
    """Of its weights, and of the configuration beside them where there is one."""

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
    return ClassifierFeatures(classifier) if option == "classifier" else network_features(option)


def network_features(option: str) -> NetworkFeatures:
    """The same for all but the classifier's."""
    return _inception() if option == "inception" else _clip(Path(option))


def features_sha256(option: str) -> str | None:
    """Of what `judge.features` names as it is now."""
    return None if option == "classifier" else network_features(option).sha256


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

    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        if kind not in ("clip", "clip_vision_model"):
            raise ConfigError(f"judge.features = '{folder}' is a model of type {kind!r}, not CLIP")
        loaded: Any = CLIPVisionModelWithProjection.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True
        )
        vision, found = loaded
    except (AttributeError, OSError, RuntimeError, json.JSONDecodeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"judge.features = '{folder}' cannot be loaded: {reason}") from None
    if missing := sorted(found["missing_keys"]):
        # transformers would leave them random
        raise ConfigError(f"judge.features = '{folder}' has no weights for {missing[0]}: name a whole CLIP model")
    vision.eval()
    size = vision.config.image_size
    if not isinstance(size, int):
        raise ConfigError(f"judge.features = '{folder}': image_size {size} in its config.json is not one number")
    weights = weights_sha256(vision.state_dict())
    return NetworkFeatures(
        name=f"clip-{folder.resolve().name}",
        num_features=vision.config.projection_dim,
        network=_ClipImage(vision),
        image_size=size,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        sha256=hashlib.sha256(weights.encode() + (folder / "config.json").read_bytes()).hexdigest(),
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
    except ImportError as error:  # it needs torchvision in turn
        raise ConfigError(
            f"judge.features = 'inception' needs torch-fidelity ({error}): pip install torch-fidelity, or use "
            "judge.features = 'classifier'"
        ) from None
    weights = Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION_WEIGHTS
    if not weights.exists():
        raise ConfigError(
            f"judge.features = 'inception': its weights are not at {weights}: put torch-fidelity's release file there, "
            "or use judge.features = 'classifier'"
        )
    try:
        # torch-fidelity unpickles whatever the file holds: see first that it holds tensors only
        torch.load(weights, weights_only=True)
    except (EOFError, OSError, RuntimeError, UnpicklingError):
        raise ConfigError(f"judge.features = 'inception': {weights} holds more than weights: fetch it again") from None
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)).eval()
    pool, sha256 = _InceptionPool(network), weights_sha256(network.state_dict())
    return NetworkFeatures("inception-v3", 2048, pool, 299, (0.0,) * 3, (1.0,) * 3, sha256)
