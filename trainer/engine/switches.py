"""Switches of speed that change a module's results by rounding alone: where its pictures lie, and torch.compile.

Weights stay as the partitions have them: with channels last what convolutions read lies so, and their library brings a
layer's weights into that order in each pass.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from torch import Tensor, nn

from ..config import EngineConfig
from ..errors import ConfigError

# classes of diffusers' blocks that a model repeats, beside those it names itself in `_repeated_blocks`
_BLOCKS = frozenset({"ResnetBlock2D", "Attention"})
# kinds of pass times shapes of a block: torch's own limit of 8 leaves the rest of a U-Net as it is, with a warning
_MAX_COMPILED = 256


def set_switches(module: nn.Module, engine: EngineConfig, device: torch.device) -> None:
    """Raises ConfigError where this machine cannot."""
    if engine.channels_last:
        # each by itself: diffusers lays out anew what comes out of attention
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_pre_hook(_with_channels_last)
    if engine.compile:
        if device.type == "cpu":
            _check_compiler()
        _compile(blocks_of(module))


def check_switches(module: nn.Module, engine: EngineConfig) -> None:
    """Raises ConfigError for what the module cannot do."""
    if engine.compile and not blocks_of(module):
        raise ConfigError(
            f"engine.compile: a {type(module).__name__} has no blocks that are known to repeat: leave it out"
        )


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks, none of them inside another one."""
    return _below(module, _BLOCKS.union(getattr(module, "_repeated_blocks", None) or ()))


def _below(module: nn.Module, kinds: frozenset[str]) -> list[nn.Module]:
    if type(module).__name__ in kinds:
        return [module]
    return [block for child in module.children() for block in _below(child, kinds)]


def _compile(blocks: list[nn.Module]) -> None:
    dynamo: Any = torch._dynamo
    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, _MAX_COMPILED)
    for block in blocks:
        # each shape its own kernels: there are few
        block.compile(dynamic=False)


def _check_compiler() -> None:
    named = os.environ.get("CXX", "g++")
    if shutil.which(named) is None:
        raise ConfigError(
            f"engine.compile on a CPU needs a C++ compiler, and {named} is not here: install one, or leave it out"
        )


def _with_channels_last(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return given[0].contiguous(memory_format=torch.channels_last), *given[1:]
