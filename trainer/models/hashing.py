"""Weights by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, shapes and fp32 values of weights, in the order of their names.

    The same for weights in memory and for the file they were saved to, whatever else the file holds.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def settings_of(config: Any) -> dict[str, Any]:
    """What a part's configuration, diffusers' or transformers', says of what it computes: versions, types and where it
    lies are left out, and what it leaves to the library's defaults."""
    values = config.to_diff_dict() if hasattr(config, "to_diff_dict") else dict(config)
    without = {"transformers_version", "architectures", "dtype", "torch_dtype", *values.get("_use_default_values", ())}
    return {name: value for name, value in values.items() if not name.startswith("_") and name not in without}
