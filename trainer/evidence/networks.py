"""What judges pictures: a small CNN, or a ResNet for pictures that are harder to tell apart.

Shapes: B pictures [B, C, H, W] in [-1, 1]; F features, what the last layer, `head`, sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ResNetConfig

POOLED_SIZE = 16  # pixels from which on the small CNN halves the picture


class SmallCNN(nn.Module):
    """Two convolution blocks and two linear layers; the last but one gives the features."""

    num_features = 128

    def __init__(self, channels: int, num_classes: int, image_size: int, width: int = 32):
        super().__init__()
        # of 16 pixels and more the second block sees every other: a quarter of the time
        between = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)) if image_size >= POOLED_SIZE else nn.ReLU()
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


class ResNet(nn.Module):
    """He et al. 2016 (arXiv 1512.03385) for small pictures: its stem is a convolution of 3 × 3 that halves nothing."""

    def __init__(self, channels: int, num_classes: int, blocks: Sequence[int], width: int):
        """blocks: at each resolution, every one after the first half of the one before with twice its channels."""
        super().__init__()
        self.num_features = width << (len(blocks) - 1)
        stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU()]
        before = width
        for level, num_blocks in enumerate(blocks):
            for number in range(num_blocks):
                stride = 2 if level and not number else 1
                layers.append(ResidualBlock(before, width << level, stride))
                before = width << level
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(self.num_features, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.head(self.features(images_BCHW))


class ResidualBlock(nn.Module):
    """Two convolutions beside a way past them, a convolution of one pixel where their shapes differ."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.past = nn.Sequential()
        if stride != 1 or channels != width:
            self.past = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x_BCHW)) + self.past(x_BCHW))


Network = SmallCNN | ResNet


def name_of(resnet: ResNetConfig | None) -> str:
    """A network's in the name of its features: a ResNet's with its number of layers, as its paper counts them."""
    return "cnn" if resnet is None else f"resnet{2 * sum(resnet.blocks) + 2}"


def num_features_of(resnet: ResNetConfig | None) -> int:
    return SmallCNN.num_features if resnet is None else resnet.width << (len(resnet.blocks) - 1)
