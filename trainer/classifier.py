"""A small classifier trained on the data at hand: what names the class of a generated image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..shards.dataset import Dataset
from ..shards.stream import Stream

HELD_OUT_SHARE = 0.25


class SmallCNN(nn.Module):
    """Two convolution blocks and two linear layers."""

    def __init__(self, channels: int, num_classes: int, width: int = 32):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(2 * width * 16, 128),
            nn.ReLU(),
        )
        self.head = nn.Linear(128, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.head(self.features(images_BCHW))


@dataclass(frozen=True)
class Classifier:
    """A trained classifier and how well it does on real images it was not trained on."""

    network: SmallCNN
    held_out_accuracy: float
    num_held_out: int

    @torch.no_grad()
    def probabilities(self, images_NCHW: Tensor) -> Tensor:
        """[N, classes], for images in [-1, 1]."""
        self.network.eval()
        return torch.cat([self.network(chunk).softmax(1) for chunk in images_NCHW.split(512)])


def train_classifier(
    data: Dataset, *, image_size: int, channels: int, seed: int = 0, num_epochs: int = 20
) -> Classifier:
    """Trains on three quarters of the data and measures on the rest; the split is seeded."""
    images, labels = _load(data, image_size, channels)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    num_held_out = int(len(labels) * HELD_OUT_SHARE)
    held_out, trained = order[:num_held_out], order[num_held_out:]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SmallCNN(channels, len(data.classes))
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
        num_batches = -(-len(trained) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=num_epochs * num_batches)
        for _ in range(num_epochs):
            network.train()
            for rows in trained[torch.randperm(len(trained))].split(64):
                loss = F.cross_entropy(network(images[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    classifier = Classifier(network.eval(), 0.0, num_held_out)
    accuracy = (classifier.probabilities(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()
    return Classifier(network, accuracy, num_held_out)


def _load(data: Dataset, image_size: int, channels: int) -> tuple[Tensor, Tensor]:
    """All images [N, C, H, W] in [-1, 1] and labels [N], in the stream's order."""
    stream = Stream(data, seed=0, batch_size=len(data), image_size=image_size, channels=channels)
    batch = stream.batch(0)
    return torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
