"""What a run will take on the disk, before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..config import OptimizerConfig, TrainConfig
from ..engine.optimizer import vector_names
from ..engine.vector import Layout, Segment
from .attempts import read_attempts
from .saving import folders_of
from .slices import RankSlices


def checkpoint_bytes(
    shapes: Mapping[str, tuple[int, ...]], optimizer: OptimizerConfig, num_vectors_kept: int = 0
) -> int:
    """Of one checkpoint, written by one rank, of a model whose trained parameters have these shapes.

    num_vectors_kept: by the method. More ranks add a few bytes for each slice.
    """
    segments, offset = [], 0
    for name, shape in shapes.items():
        numel = torch.Size(shape).numel()
        segments.append(Segment(name, 0, numel, offset))
        offset += numel
    names = ["theta", *vector_names(optimizer), *(f"method {i}" for i in range(num_vectors_kept))]
    vectors = {name: torch.empty(offset, device="meta") for name in names}
    return RankSlices(vectors, Layout(tuple(segments), offset, dict(shapes))).num_bytes


def most_checkpoints(train: TrainConfig) -> int:
    """That lie on the disk at once: a new one is whole before an old one goes. Without any, a stop still saves one."""
    return train.checkpoints_total_limit + 1 if train.checkpointing_steps else 1


def saved_bytes(run: Path) -> int:
    """That the checkpoints of a run take already."""
    files = (path for attempt in read_attempts(run) for folder in folders_of(attempt) for path in folder.iterdir())
    return sum(path.stat().st_size for path in files)
