"""A small classifier trained on the data at hand: what names the class of a generated image, and whose features count.

classifier.safetensors    the weights; in its metadata the classes, the resolution and the held-out accuracy
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...shards.dataset import Dataset
from ...shards.streaming.stream import SampleBatch, Stream
from ..errors import ConfigError
from ..files import open_up
from ..models.hashing import weights_sha256
from ..models.model import Model
from ..run.progress import StepProgress

HELD_OUT_SHARE = 0.25
FORMAT = "erasediff-classifier-1"
POOLED_FORMAT = "erasediff-classifier-2"  # the same tensors, with a pooling between
_POOLED_SIZE = 16
_CHUNK = 512


class SmallCNN(nn.Module):
    """Two convolution blocks and two linear layers; the last but one gives the features."""

    num_features = 128

    def __init__(self, channels: int, num_classes: int, image_size: int, width: int = 32):
        super().__init__()
        # of 16 pixels and more the second block sees every other: a quarter of the time
        between = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)) if image_size >= _POOLED_SIZE else nn.ReLU()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            between,
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(2 * width * 16, self.num_features),
            nn.ReLU(),
        )
        self.head = nn.Linear(self.num_features, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.head(self.features(images_BCHW))


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


@dataclass(frozen=True)
class Classifier:
    """A trained classifier."""

    network: SmallCNN
    card: ClassifierCard

    @torch.no_grad()
    def probabilities(self, images_NCHW: Tensor) -> Tensor:
        """[N, classes], for images in [-1, 1]."""
        return torch.cat([self.network(chunk).softmax(1) for chunk in images_NCHW.split(_CHUNK)])

    @torch.no_grad()
    def features(self, images_NCHW: Tensor) -> Tensor:
        """[N, 128], for images in [-1, 1]."""
        return torch.cat([self.network.features(chunk) for chunk in images_NCHW.split(_CHUNK)])

    def save(self, path: Path) -> None:
        """One safetensors file, there only when it is complete; OSError where it cannot be written."""
        partial = path.with_name(path.name + ".partial")
        card = {"format": _format_of(self.card.image_size), "card": json.dumps(asdict(self.card))}
        try:
            save_file({name: value.contiguous() for name, value in self.network.state_dict().items()}, partial, card)
        except SafetensorError as error:  # its own name for whatever the system said
            raise OSError(f"'{path}' cannot be written: {error}") from None
        open_up(partial)
        partial.rename(path)


def load_classifier(path: Path, option: str = "judge.classifier") -> Classifier:
    """What `Classifier.save` wrote; raises ConfigError, naming `option`, for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{option} = '{path}' cannot be read as safetensors: {error}") from None
    if about.get("format") not in (FORMAT, POOLED_FORMAT):
        raise ConfigError(
            f"{option} = '{path}' has format {about.get('format')!r}, not {FORMAT!r}: "
            "name the classifier.safetensors of an evaluated run"
        )
    try:
        fields = json.loads(about["card"])
        # found anew: the card is of the weights that are there
        found = {"classes": tuple(fields["classes"]), "weights_sha256": weights_sha256(weights)}
        card = ClassifierCard(**fields | found)
        network = SmallCNN(card.channels, len(card.classes), card.image_size)
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"{option} = '{path}' is damaged: leave it out, and a classifier is trained on the data"
        ) from None
    if about["format"] != _format_of(card.image_size):
        raise ConfigError(
            f"{option} = '{path}' was made by an older erasediff, whose network for pictures of {card.image_size} "
            "pixels was another: leave it out"
        )
    return Classifier(network.eval(), card)


def _format_of(image_size: int) -> str:
    return POOLED_FORMAT if image_size >= _POOLED_SIZE else FORMAT


def classifier_name(data: Dataset) -> str:
    """What a classifier trained on it is called."""
    return f"{data.name}-cnn"


def train_classifier(
    data: Dataset, *, image_size: int, channels: int, seed: int = 0, num_epochs: int = 20
) -> Classifier:
    """Trains on three quarters of the data and measures on the rest; the split is seeded."""
    batch = read_images(data, image_size, channels)
    images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    num_held_out = int(len(labels) * HELD_OUT_SHARE)
    held_out, trained = order[:num_held_out], order[num_held_out:]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SmallCNN(channels, len(data.classes), image_size)
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
        num_batches = -(-len(trained) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=num_epochs * num_batches)
        progress = StepProgress("judge", 0, num_epochs, num_lines=2)
        for epoch in range(num_epochs):
            network.train()
            for rows in trained[torch.randperm(len(trained))].split(64):
                loss = F.cross_entropy(network(images[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            progress.update(epoch, {})
        progress.close()
    network.eval()
    with torch.no_grad():
        right = [network(images[rows]).argmax(1) == labels[rows] for rows in held_out.split(_CHUNK)]
    accuracy = torch.cat(right).double().mean().item() if right else 0.0
    card = ClassifierCard(
        classifier_name(data),
        data.classes,
        image_size,
        channels,
        accuracy,
        num_held_out,
        data.fingerprint,
        weights_sha256(network.state_dict()),
    )
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
