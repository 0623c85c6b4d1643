"""Which kernels attention runs on: torch's own, xformers' or FlashAttention's, through diffusers' dispatcher.

diffusers' `set_attention_backend` passes by the attention of its U-Nets, whose processor calls torch's function itself:
these layers get a processor that asks the dispatcher. No kernel gives what it attends to: a loss on that computes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from ..errors import ConfigError

Backend = Literal["native", "xformers", "flash"]

# https://github.com/Dao-AILab/flash-attention: "all head dimensions up to 256"
_FLASH_MAX_HEAD_DIM = 256


def set_attention(module: nn.Module, backend: str) -> None:
    """Every attention layer of `module` runs on this backend, a `Backend` or another of diffusers' names."""
    if backend != "native":
        for layer in _layers(module):
            layer.set_processor(_Dispatching(backend))  # pyright: ignore[reportArgumentType]


def check_attention(module: nn.Module, backend: Backend) -> None:
    """Raises ConfigError where the backend cannot compute this module's attention, or its package is not there."""
    if backend == "native":
        return
    option, layers = f"engine.attention = {backend!r}", _layers(module)
    if not layers:
        raise ConfigError(f"{option}: a {type(module).__name__} has no attention that it could compute: use 'native'")
    check_plain(layers, option, "use 'native'")
    widest = max(layer.inner_dim // layer.heads for layer in layers)
    if backend == "flash" and widest > _FLASH_MAX_HEAD_DIM:
        raise ConfigError(
            f"{option} takes up to {_FLASH_MAX_HEAD_DIM} channels a head, the model has {widest}: use 'xformers'"
        )
    try:
        _check_attention_backend_requirements(AttentionBackendName(backend))
    except RuntimeError as error:
        needed = str(error).rpartition("Please install ")[2].strip("`.")
        raise ConfigError(
            f"{option} needs {needed}, which is not here: pip install 'erasediff[{backend}]', or use 'native'"
        ) from None


def check_plain(layers: Sequence[Attention], option: str, instead: str) -> None:
    """Raises ConfigError, naming `option`, for layers whose attention is more than that of a U-Net's."""
    other = next((layer.processor for layer in layers if not isinstance(layer.processor, AttnProcessor2_0)), None)
    if other is not None:
        raise ConfigError(f"{option}: the model's attention needs diffusers' {type(other).__name__}: {instead}")


def cross_attention(module: nn.Module) -> list[Attention]:
    """The layers that attend to what the module is told, as diffusers' blocks call them."""
    found = [part for name, part in module.named_modules() if name.endswith(".attn2")]
    return [part for part in found if isinstance(part, Attention)]


class Watched:
    """What layers of a module attend to, while `watched`."""

    def __init__(self) -> None:
        self._of_pass: list[Tensor] | None = None

    @contextmanager
    def in_pass(self) -> Iterator[list[Tensor]]:
        """Around one forward pass; then the list has each layer's probabilities, [B, heads, places, tokens]."""
        self._of_pass = found = []
        try:
            yield found
        finally:
            self._of_pass = None

    def note(self, probabilities: Tensor) -> None:
        # a pass that checkpointing makes again was noted when it was made first
        if self._of_pass is not None:
            self._of_pass.append(probabilities)


@contextmanager
def watched(layers: Sequence[Attention]) -> Iterator[Watched]:
    """Inside, these layers compute their probabilities one by one, in backward passes too; then they are as before."""
    found, before = Watched(), [layer.processor for layer in layers]
    for layer in layers:
        layer.set_processor(_Watched(found))  # pyright: ignore[reportArgumentType]
    try:
        yield found
    finally:
        for layer, processor in zip(layers, before, strict=True):
            layer.set_processor(processor)  # pyright: ignore[reportArgumentType]


def _layers(module: nn.Module) -> list[Attention]:
    return [part for part in module.modules() if isinstance(part, Attention)]


class _Processor(ABC):
    """Like diffusers' `AttnProcessor2_0`, for the layers of U-Nets, which mask nothing."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        assert attention_mask is None and attn.spatial_norm is None and attn.norm_q is None
        is_image = hidden_states.ndim == 4
        x_BLC = hidden_states.flatten(2).transpose(1, 2) if is_image else hidden_states
        if attn.group_norm is not None:
            x_BLC = attn.group_norm(x_BLC.transpose(1, 2)).transpose(1, 2)
        told_BTC = x_BLC if encoder_hidden_states is None else encoder_hidden_states
        query = _by_head(attn, attn.to_q(x_BLC))
        assert attn.to_k is not None and attn.to_v is not None and attn.to_out is not None
        key, value = (_by_head(attn, project(told_BTC)) for project in (attn.to_k, attn.to_v))
        output = self._attend(query, key, value).flatten(2).to(query.dtype)
        project_out, dropout = attn.to_out
        output = dropout(project_out(output))
        if is_image:
            output = output.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            output = output + hidden_states
        return output / attn.rescale_output_factor

    @abstractmethod
    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Of [B, L, heads, features] each."""


class _Dispatching(_Processor):
    def __init__(self, backend: str):
        self._backend = AttentionBackendName(backend)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output: Any = dispatch_attention_fn(query, key, value, backend=self._backend_for(query.dtype))
        return output

    def _backend_for(self, dtype: torch.dtype) -> AttentionBackendName:
        # FlashAttention has no fp32; the passes that must be exact run in it
        is_exact = self._backend == AttentionBackendName.FLASH and dtype == torch.float32
        return AttentionBackendName.NATIVE if is_exact else self._backend


class _Watched(_Processor):
    def __init__(self, watched: Watched):
        self._watched = watched

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        probabilities = scores.softmax(-1)
        self._watched.note(probabilities)
        return (probabilities @ value).transpose(1, 2)


def _by_head(attn: Attention, x_BLC: Tensor) -> Tensor:
    """[B, L, heads, C / heads]."""
    return x_BLC.unflatten(-1, (attn.heads, -1))
