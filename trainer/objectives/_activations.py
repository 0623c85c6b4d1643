"""Attention transfer, arXiv 1612.03928: where in a picture a U-Net's blocks are active, and how far two models differ.

Shapes: B samples of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """A diffusers U-Net's blocks, from the first to the last; of other modules none."""
    found: list[nn.Module] = []
    for name in ("down_blocks", "mid_block", "up_blocks"):
        part = getattr(module, name, None)
        found += [] if part is None else part if isinstance(part, nn.ModuleList) else [part]
    return found


@contextmanager
def activation_maps(module: nn.Module) -> Iterator[list[Tensor]]:
    """Around one forward pass; then the list has each block's map [B, places], of length 1.

    A map is the mean over channels of the block's squared output.
    """
    maps: list[Tensor] = []

    def note(block: nn.Module, given: Any, output: Any) -> None:
        x_BCHW: Tensor = output[0] if isinstance(output, tuple) else output
        maps.append(F.normalize(x_BCHW.float().square().mean(1).flatten(1), dim=1))

    hooks = [block.register_forward_hook(note) for block in blocks_of(module)]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def distance(maps: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """[B]: the mean squared difference of a block's two maps, summed over blocks."""
    squares = [(one - other).square().mean(1) for one, other in zip(maps, others, strict=True)]
    return sum(squares[1:], squares[0])
