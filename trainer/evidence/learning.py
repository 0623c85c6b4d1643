"""How a judge's network learns its classes. Whatever the device, what is drawn is the same.

Shapes: N pictures [N, C, H, W] in [-1, 1], their classes [N].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ResNetConfig
from ..engine.arithmetic import tf32
from ..run.progress import StepProgress
from .networks import Network

_MOMENTUM = 0.9


def learn(network: Network, images: Tensor, labels: Tensor, num_epochs: int) -> None:
    """The small CNN's way: AdamW, one cycle of the learning rate."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    num_batches = -(-len(labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=num_epochs * num_batches)
    progress = StepProgress("judge", 0, num_epochs, num_lines=2)
    for epoch in range(num_epochs):
        network.train()
        for rows in torch.randperm(len(labels)).split(64):
            _step(network, optimizer, images[rows], labels[rows])
            schedule.step()
        progress.update(epoch, {})
    progress.close()


def learn_shifted(network: Network, images: Tensor, labels: Tensor, config: ResNetConfig, device: torch.device) -> None:
    """A ResNet's way: pictures shifted and mirrored, SGD with Nesterov's momentum, the learning rate a cosine."""
    network.to(device).train()
    optimizer = torch.optim.SGD(
        network.parameters(), config.learning_rate, _MOMENTUM, weight_decay=config.weight_decay, nesterov=True
    )
    num_batches = max(1, len(labels) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_epochs * num_batches)
    progress = StepProgress("judge", 0, config.num_epochs, num_lines=5)
    with tf32(True):
        for epoch in range(config.num_epochs):
            # without the rest of an epoch: the batch normalisation of a few pictures says little
            for rows in torch.randperm(len(labels)).split(config.batch_size)[:num_batches]:
                seen = shifted(images[rows].to(device), config.crop_padding, flip=config.flip)
                _step(network, optimizer, seen, labels[rows].to(device))
                schedule.step()
            progress.update(epoch, {})
    progress.close()
    network.cpu()


def shifted(images_BCHW: Tensor, most: int, *, flip: bool) -> Tensor:
    """Each picture shifted by up to `most` pixels along either axis, mirrored or not; what comes in is mid-grey."""
    num_samples, _, height, width = images_BCHW.shape
    # on the CPU, whose generator a seed makes the same everywhere
    down, right = torch.randint(0, 2 * most + 1, (2, num_samples))
    is_mirrored = torch.rand(num_samples) < (0.5 if flip else 0.0)
    rows_BH = down[:, None] + torch.arange(height)
    columns_BW = right[:, None] + torch.arange(width)
    columns_BW = torch.where(is_mirrored[:, None], columns_BW.flip(1), columns_BW)
    padded = F.pad(images_BCHW, (most, most, most, most))
    places = (torch.arange(num_samples)[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :])
    seen_BHWC = padded.permute(0, 2, 3, 1)[tuple(place.to(images_BCHW.device) for place in places)]
    # channels first in memory, too: of those that lie last, torch 2.13's convolution on a CPU goes wrong by a crash
    # where it makes four of three
    return seen_BHWC.permute(0, 3, 1, 2).contiguous()


def _step(network: Network, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    loss = F.cross_entropy(network(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
