"""A classifier trained on the data at hand: what names the class of a generated image, and whose features count.

classifier.safetensors    the weights; in its metadata the network, the classes, the resolution, the held-out accuracy
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...shards.dataset import Dataset
from ...shards.streaming.stream import SampleBatch, Stream
from ..config import JudgeConfig, ResNetConfig
from ..errors import ConfigError
from ..models.hashing import weights_sha256
from ..models.model import Model
from ..tensors import save_tensors
from .learning import learn, learn_shifted
from .networks import POOLED_SIZE, Network, ResNet, SmallCNN, name_of, num_features_of

HELD_OUT_SHARE = 0.25
FORMAT = "erasediff-classifier-1"
POOLED_FORMAT = "erasediff-classifier-2"  # the same tensors, with a pooling between
RESNET_FORMAT = "erasediff-classifier-3"
_CHUNK = 512


@dataclass(frozen=True)
class ClassifierCard:
    """What a classifier is, as its file says it."""

    name: str
    """Of its features in a metric's name: `digits-cnn`."""
    classes: tuple[str, ...]
    image_size: int
    channels: int
    held_out_accuracy: float
    """On real images it was not trained on."""
    num_held_out: int
    data_fingerprint: str
    """Of the dataset it was trained on."""
    weights_sha256: str
    """`provenance.weights_sha256` of its weights."""
    resnet: ResNetConfig | None = None
    """How a ResNet was made, as `judge.resnet`; None: the small CNN."""

    def network(self) -> Network:
        """Such a one, untrained."""
        return _network(self.resnet, self.channels, len(self.classes), self.image_size)


def _network(resnet: ResNetConfig | None, channels: int, num_classes: int, image_size: int) -> Network:
    if resnet is None:
        return SmallCNN(channels, num_classes, image_size)
    return ResNet(channels, num_classes, resnet.blocks, resnet.width)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier."""

    network: Network
    card: ClassifierCard

    def to(self, device: torch.device) -> Classifier:
        """This one, moved there in place: it takes images, and gives answers, on the CPU all the same."""
        self.network.to(device)
        return self

    @property
    def _device(self) -> torch.device:
        return self.network.head.weight.device

    @torch.no_grad()
    def probabilities(self, images_NCHW: Tensor) -> Tensor:
        """[N, classes], for images in [-1, 1]."""
        chunks = images_NCHW.split(_CHUNK)
        return torch.cat([self.network(chunk.to(self._device)).softmax(1).cpu() for chunk in chunks])

    @torch.no_grad()
    def features(self, images_NCHW: Tensor) -> Tensor:
        """[N, network.num_features], for images in [-1, 1]."""
        chunks = images_NCHW.split(_CHUNK)
        return torch.cat([self.network.features(chunk.to(self._device)).cpu() for chunk in chunks])

    def save(self, path: Path) -> None:
        """One safetensors file, there only when it is complete; OSError where it cannot be written."""
        card = {"format": _format_of(self.card), "card": json.dumps(asdict(self.card))}
        save_tensors({name: value.cpu() for name, value in self.network.state_dict().items()}, path, card)


def load_classifier(path: Path, option: str = "judge.classifier") -> Classifier:
    """What `Classifier.save` wrote; raises ConfigError, naming `option`, for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{option} = '{path}' cannot be read as safetensors: {error}") from None
    if about.get("format") not in (FORMAT, POOLED_FORMAT, RESNET_FORMAT):
        raise ConfigError(
            f"{option} = '{path}' has format {about.get('format')!r}, not {FORMAT!r}: "
            "name the classifier.safetensors of an evaluated run"
        )
    try:
        fields = json.loads(about["card"])
        resnet = fields.get("resnet")
        if resnet is not None:
            resnet = ResNetConfig(**resnet | {"blocks": tuple(resnet["blocks"])})
        # found anew: the card is of the weights that are there
        found = {"classes": tuple(fields["classes"]), "weights_sha256": weights_sha256(weights), "resnet": resnet}
        card = ClassifierCard(**fields | found)
        network = card.network()
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"{option} = '{path}' is damaged: leave it out, and a classifier is trained on the data"
        ) from None
    if about["format"] != _format_of(card):
        raise ConfigError(
            f"{option} = '{path}' was made by an older erasediff, whose network for pictures of {card.image_size} "
            "pixels was another: leave it out"
        )
    name = _not_finite(weights)
    if name is not None:
        raise ConfigError(f"{option} = '{path}': its weights {name} are not finite: leave it out")
    return Classifier(network.eval(), card)


def _not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor with a NaN or Inf."""
    return next((name for name, values in weights.items() if not values.isfinite().all()), None)


def _format_of(card: ClassifierCard) -> str:
    if card.resnet is not None:
        return RESNET_FORMAT
    return POOLED_FORMAT if card.image_size >= POOLED_SIZE else FORMAT


def features_of(options: JudgeConfig, data: Dataset) -> tuple[str, int]:
    """What the features of a classifier that is trained on `data` are called, and how many they are."""
    return _name(data, options.trained_resnet), num_features_of(options.trained_resnet)


def _name(data: Dataset, resnet: ResNetConfig | None) -> str:
    return f"{data.name}-{name_of(resnet)}"


def is_as_asked(card: ClassifierCard, options: JudgeConfig, data: Dataset) -> bool:
    """Whether a classifier that was trained before was trained so, on these data."""
    return card.resnet == options.trained_resnet and card.data_fingerprint == data.fingerprint


def train_classifier(
    data: Dataset,
    *,
    image_size: int,
    channels: int,
    seed: int = 0,
    num_epochs: int = 20,
    resnet: ResNetConfig | None = None,
    device: torch.device | None = None,
) -> Classifier:
    """Trains on three quarters of the data and measures on the rest; the split is seeded.

    num_epochs: the small CNN's. resnet: a ResNet in its place, trained on `device` (None: on the CPU, as the small CNN
    always is). The classifier is on the CPU. Raises ConfigError where its weights came out NaN or infinite.
    """
    batch = read_images(data, image_size, channels)
    images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    num_held_out = int(len(labels) * HELD_OUT_SHARE)
    held_out, trained = order[:num_held_out], order[num_held_out:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(resnet, channels, len(data.classes), image_size)
        if resnet is None:
            learn(network, images[trained], labels[trained], num_epochs)
        else:
            learn_shifted(network, images[trained], labels[trained], resnet, device or torch.device("cpu"))
    name = _not_finite(network.state_dict())
    if name is not None:
        lower = "" if resnet is None else "lower judge.resnet.learning_rate, or "
        raise ConfigError(
            f"the classifier that was trained on '{data.path}' has weights {name} that are not finite: {lower}name one "
            "in judge.classifier"
        )
    network.eval()
    with torch.no_grad():
        right = [network(images[rows]).argmax(1) == labels[rows] for rows in held_out.split(_CHUNK)]
    accuracy = torch.cat(right).double().mean().item() if right else 0.0
    card = ClassifierCard(
        _name(data, resnet),
        data.classes,
        image_size,
        channels,
        accuracy,
        num_held_out,
        data.fingerprint,
        weights_sha256(network.state_dict()),
    )
    if resnet is not None:
        card = replace(card, resnet=resnet)
    return Classifier(network, card)


def read_images(data: Dataset, image_size: int, channels: int, max_images: int | None = None) -> SampleBatch:
    """All of a dataset's samples, or the first so many in the stream's order; images in [-1, 1]."""
    count = len(data) if max_images is None else min(max_images, len(data))
    return Stream(data, seed=0, batch_size=count, image_size=image_size, channels=channels).batch(0)


def load_for(path: str, data: Dataset, model: Model, option: str = "judge.classifier") -> Classifier:
    """The classifier that `option` names; ConfigError where it does not fit the data or the model."""
    classifier = load_classifier(Path(path), option)
    card = classifier.card
    if (card.image_size, card.channels) != (model.image_size, model.channels):
        raise ConfigError(
            f"{option} = '{path}' takes images of {card.image_size} pixels and {card.channels} "
            f"channels, the model makes {model.image_size} pixels and {model.channels} channels: leave it out"
        )
    if card.classes != data.classes:
        raise ConfigError(f"{option} = '{path}' knows other classes than the data: leave it out")
    return classifier
