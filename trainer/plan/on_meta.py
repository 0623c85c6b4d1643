"""Passes on `meta` that keep what they would on a device: with fused attention and autocast, which `meta` lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

Function = Callable[..., Any]

# ATen/autocast_mode.h, as far as models of diffusers call them: AT_FORALL_LOWER_PRECISION_FP …
_IN_BF16: frozenset[Function] = frozenset(
    {
        *(torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d),
        *(F.linear, F.scaled_dot_product_attention),
        *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum),
        *(Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm),
    }
)
# … and AT_FORALL_FP32 with what has a dtype to be set, which are CUDA's
_IN_FP32: frozenset[Function] = frozenset(
    {
        *(F.group_norm, F.layer_norm, F.interpolate, F.softmax, F.log_softmax, F.softplus, F.mse_loss),
        *(torch.softmax, torch.exp, torch.log, torch.rsqrt, torch.reciprocal, torch.sum),
        *(Tensor.softmax, Tensor.exp, Tensor.log, Tensor.rsqrt, Tensor.sum),
    }
)


class OnMeta(TorchFunctionMode):
    """Inside, attention runs fused and, with `autocasts`, functions in the types of torch's autocast to bf16.

    on_cpu: by a CPU's list, on which normalisation and interpolation stay in the type of what they are given.
    """

    def __init__(self, *, autocasts: bool, on_cpu: bool):
        super().__init__()
        self._dtypes: dict[Function, torch.dtype] = {}
        if autocasts:
            self._dtypes |= dict.fromkeys(_IN_BF16, torch.bfloat16)
            self._dtypes |= {} if on_cpu else dict.fromkeys(_IN_FP32, torch.float32)

    def __torch_function__(self, func: Function, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dtype = self._dtypes.get(func)
        if dtype is not None:
            args, kwargs = tree_map_only(Tensor, lambda value: _cast(value, dtype), (args, kwargs))
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> Tensor:
    """Keeps its inputs, its output and a number a row, as FlashAttention, xformers and a CPU's kernel do."""
    fused: Any = torch.ops.aten._scaled_dot_product_efficient_attention
    return fused(query, key, value, attn_mask, True, dropout_p, is_causal)[0]
