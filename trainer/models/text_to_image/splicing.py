"""A prompt's encoding with vectors in the place of words, as textual inversion has it (arXiv 2208.01618)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def spliced(encoder: nn.Module, tokens: dict[str, Tensor], vectors: Tensor) -> Any:
    """A CLIP text encoder's output for one prompt, `tokens` [1, L] each, with vectors [k, features] before its words.

    They take the place of embeddings; what is behind them moves on, and filling is cut. Gradients flow to them.
    """
    num, first = len(vectors), slice(0, 1)
    moved = {
        name: torch.cat([ids[:, first].expand(-1, num + 1), ids[:, 1:]], dim=1)[:, : ids.shape[1]]
        for name, ids in tokens.items()
    }

    def splice(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, first], vectors[None].to(output), output[:, 1 + num :]], dim=1)

    handle = encoder.get_input_embeddings().register_forward_hook(splice)  # pyright: ignore[reportCallIssue]
    try:
        return encoder(**moved)
    finally:
        handle.remove()
