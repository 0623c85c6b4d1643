"""Samples that no model was trained on: what membership compares D_f with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ...shards.dataset import Dataset, same_content
from ..errors import ConfigError
from ..models.class_names import labels_of
from ..models.fitting import fit
from ..models.lineage import forgotten_rows
from ..models.model import Model


def open_held_out(path: str, model: Model, trained_on: Sequence[Dataset], forget_labels: list[int]) -> Dataset:
    """Raises ConfigError where a model was trained on one of its samples, or none is of a forgotten class."""
    held_out = fit(Dataset.open(path), model).data
    for dataset in trained_on:
        shared = sorted(set(held_out.keys) & set(dataset.keys))
        shared = shared or [held_out.key(row) for row, _ in same_content(held_out.index, dataset.index)]
        if shared:
            raise ConfigError(
                f"judge.held_out = '{path}' shares sample {shared[0]!r} with '{dataset.path}': "
                "held-out samples are those that no model was trained on"
            )
    # others of a class or prompt that is gone may be unseen
    samples = [dataclasses.replace(one, classes={}, prompts=()) for one in model.lineage.forgotten]
    seen = np.flatnonzero(forgotten_rows(samples, held_out, model.conditions.of_dataset))
    if len(seen):
        raise ConfigError(
            f"judge.held_out = '{path}' holds sample {held_out.key(int(seen[0]))!r}, which the model has forgotten "
            "before: held-out samples are those that no model was trained on"
        )
    if held_out.classes != trained_on[0].classes:
        raise ConfigError(f"judge.held_out = '{path}' has other classes than '{trained_on[0].path}'")
    if not set(labels_of(held_out)) & set(forget_labels):
        raise ConfigError(f"judge.held_out = '{path}' has no sample of the forgotten classes")
    return held_out
