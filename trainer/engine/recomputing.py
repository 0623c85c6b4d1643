"""Activation checkpointing: a block's activations are not kept for the backward pass, but made again in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn

ActivationCheckpointing = Literal["off", "inner", "all"]


class Recomputing:
    """Switches it on for the passes that a setting names, in a module whose blocks know how (diffusers')."""

    def __init__(self, module: nn.Module, setting: ActivationCheckpointing, *, share: float = 1.0):
        """share: of the blocks, those with the fewest weights first, whose activations are the largest in a U-Net."""
        self._setting = setting
        self._parts: list[Any] = []
        if setting != "off":
            knowing: Any = module
            # torch's, without reentrance: a pass may be of ZeRO-3, whose hooks run again with it
            knowing.enable_gradient_checkpointing()
            self._parts = [part for part in module.modules() if getattr(part, "gradient_checkpointing", False)]
        self._set(False)
        self._parts = sorted(self._parts, key=_num_weights)[: math.ceil(share * len(self._parts))]

    @contextmanager
    def at(self, *, inner: bool) -> Iterator[None]:
        """Inside, forward passes are of the inner loop, or are not."""
        self._set(self._setting == "all" or (inner and self._setting == "inner"))
        try:
            yield
        finally:
            self._set(False)

    def _set(self, on: bool) -> None:
        for part in self._parts:
            part.gradient_checkpointing = on


def _num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def can_recompute(module: nn.Module) -> bool:
    """Whether its blocks know how."""
    return bool(getattr(module, "_supports_gradient_checkpointing", False))
