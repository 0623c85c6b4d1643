"""Data as a model takes it: labels counted as the model counts its classes, images of its shape. Or a refusal.

Whatever the trainer reads for a model comes through `fit`, so that no label of a dataset is taken for one of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...shards.dataset import Dataset
from ...shards.format.index import IMAGE_EXTENSIONS
from ..errors import ConfigError
from .class_names import ClassMap, labels_of, match_classes, names_of_id2label
from .lineage import LINEAGE_NAME
from .model import Model
from .pipeline import read_index


@dataclass(frozen=True)
class Fitted:
    """A dataset and what was done to it."""

    data: Dataset
    """Its labels are the model's classes."""
    classes: ClassMap | None
    """None: the model is unconditional."""
    conversion: str | None
    """What is done to its images, such as "resized 32 → 8"; None: nothing."""


def fit(data: Dataset, model: Model) -> Fitted:
    """Raises ConfigError where the model cannot be told the data's classes, or its images must not be converted."""
    conversion = _conversion(data, model)
    data = _with_latents_of(data, model)
    if model.caption is not None:
        data = data.captioned(model.caption)
    model.conditions.check(data)
    if not model.num_classes:
        return Fitted(data, None, conversion)
    used = [data.classes[label] for label in labels_of(data)]
    found = match_classes(
        data.classes,
        used,
        model.class_names,
        num_classes=model.num_classes,
        null_class=model.null_class,
        where=str(data.path),
    )
    names = class_list(model)
    if found.by_name and data.classes != names:
        table = np.array([found.labels.get(name, -1) for name in data.classes])
        data = data.relabelled(names, table)
    return Fitted(data, found, conversion)


def names_for(model: Model, data: Dataset) -> tuple[str | None, ...]:
    """A name for each of the model's classes: its own, or those that its data gave them by position."""
    names = model.class_names or data.classes
    padded = [*names, *[None] * model.num_classes][: model.num_classes]
    return tuple(None if label == model.null_class else name for label, name in enumerate(padded))


def data_notes(*fitted: Fitted, first: Sequence[int] = ()) -> list[str]:
    """Lines that say what is done to datasets, what is done to several of them once."""
    maps = [one.classes for one in fitted if one.classes is not None]
    lines = [f"classes     {maps[0].describe(first)}"] if maps else []
    lines += [f"images      {one.conversion}, in {one.data.path}" for one in fitted if one.conversion is not None]
    return lines


def names_notes(model: Model) -> list[str]:
    """A line where model.classes calls a class otherwise than the model's own files do."""
    stored, where = [*model.lineage.classes], LINEAGE_NAME
    if not stored and model.class_names and model.folder is not None:
        stored = names_of_id2label(read_index(model.folder).get("id2label"), model.num_classes)
        where = "model_index.json"
    pairs = enumerate(zip(model.class_names, stored, strict=False))
    # "tench, Tinca tinca" is called either
    other = [
        (label, ours, theirs)
        for label, (ours, theirs) in pairs
        if ours is not None and theirs is not None and ours not in (theirs, *map(str.strip, theirs.split(",")))
    ]
    if not other:
        return []
    label, ours, theirs = other[0]
    more = f", and {len(other) - 1} more" if len(other) > 1 else ""
    return [f"classes     model.classes counts: class {label} is {ours!r}, in {where} it is {theirs!r}{more}"]


def null_class_note(model: Model, dataset: Dataset) -> str | None:
    """That a class more than the data have may be the null class."""
    if model.null_class is not None or model.num_classes != len(dataset.classes) + 1:
        return None
    last = model.num_classes - 1
    return (
        f"null class  none: the model knows {model.num_classes} classes, the data {last}; "
        f"if class {last} stands for 'no class', set model.null_class = {last}"
    )


def class_list(model: Model) -> tuple[str, ...]:
    """The model's class names as a dataset has them, up to the last that is known; the others get their number."""
    names = list(model.class_names)
    while names and names[-1] is None:
        names.pop()
    return tuple(f"class {label}" if name is None else name for label, name in enumerate(names))


def _with_latents_of(data: Dataset, model: Model) -> Dataset:
    """With latents as the model's own autoencoder makes them, or with images alone; else raises ConfigError."""
    latents, encoder = data.manifest.latents, model.encoder_sha256
    if latents is None or encoder is None or not model.reads_latents:
        return data.without_latents()
    channels, height, width = model.latent_shape
    needed = (2 * channels, height, width)
    if latents.encoder_sha256 != encoder:
        found = f"that another autoencoder made ({latents.encoder_sha256[:12]}…; the model's is {encoder[:12]}…)"
    elif latents.shape != needed:
        found = f"of shape {list(latents.shape)}, the model works on {list(needed)}"
    else:
        return data
    raise ConfigError(
        f"'{data.path}' holds latents {found}: have them made with this model, or set model.read_latents = false to "
        "have the images encoded"
    )


def _conversion(data: Dataset, model: Model) -> str | None:
    if data.extension(0) not in IMAGE_EXTENSIONS:
        raise ConfigError(f"'{data.path}' holds .{data.extension(0)} arrays; the model works on images")
    shape, size, colour = data.image_shape, model.image_size, model.takes[model.channels]
    if shape is None:
        found = "images of several shapes"
        steps = [f"cut to the middle square, resized to {size} and made {colour}"]
        is_harmless = False
    elif shape.channels not in model.takes:
        known = " or ".join(f"{channels} ({word})" for channels, word in model.takes.items())
        raise ConfigError(f"'{data.path}' holds images of {shape.channels} channels, the model takes {known}")
    else:
        found = f"images of {shape.width} × {shape.height} pixels in {model.takes[shape.channels]}"
        side = min(shape.width, shape.height)
        steps = [
            *(["cut to the middle square"] if shape.width != shape.height else []),
            *([f"{'resized' if side > size else 'enlarged'} {side} → {size}"] if side != size else []),
            *([f"made {colour}"] if shape.channels != model.channels else []),
        ]
        # a smaller copy of the whole picture
        is_harmless = shape.width == shape.height and side >= size and shape.channels == model.channels
    if not steps:
        return None
    conversion = ", ".join(steps)
    if not is_harmless and not model.converts_images:
        raise ConfigError(
            f"'{data.path}' holds {found}, the model makes {size} × {size} in {colour}: set model.convert_images to "
            f"have them {conversion}, or give data of the model's shape"
        )
    return conversion
