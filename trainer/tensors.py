"""Tensors in one safetensors file that is there only when it is whole and on the disk."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .files import open_up, sync


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """OSError, with the file's name, where it cannot be written."""
    partial = path.with_name(path.name + ".partial")
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata)
    except SafetensorError as error:  # its own name for whatever the system said
        raise OSError(f"'{path}' cannot be written: {error}") from None
    open_up(partial)
    sync(partial)
    partial.rename(path)
