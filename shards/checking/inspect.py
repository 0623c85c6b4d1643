"""A look at a dataset: numbers, and a picture of some samples."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..dataset import Dataset
from ..errors import DataError
from ..format.images import open_image
from ..format.index import IMAGE_EXTENSIONS, NO_LABEL

_TILE_PIXELS = 64
_SHEET_COLUMNS = 10
_NAME_PIXELS = 96
_MAX_SHEET_CLASSES = 50


@dataclass(frozen=True)
class Summary:
    """Counts and sizes of a dataset."""

    num_samples: int
    num_excluded: int
    num_shards: int
    num_unlabelled: int
    num_captions: int
    label_counts: dict[str, int]
    content_bytes: int
    size_quantiles_bytes: dict[str, int]
    """Of a sample's content: min, median, p99, max."""


def summarise(dataset: Dataset) -> Summary:
    """Read from the index alone."""
    labels = dataset.labels
    counts = np.bincount(labels[labels != NO_LABEL], minlength=len(dataset.classes)).tolist()
    lengths = dataset.index["length"].astype(np.int64)
    quantiles = np.quantile(lengths, [0, 0.5, 0.99, 1], method="nearest").tolist()
    return Summary(
        num_samples=len(dataset),
        num_excluded=sum(shard.num_excluded for shard in dataset.manifest.shards),
        num_shards=len(dataset.manifest.shards),
        num_unlabelled=int(np.count_nonzero(labels == NO_LABEL)),
        num_captions=int(np.count_nonzero(dataset.index["text_length"])),
        label_counts=dict(zip(dataset.classes, counts, strict=True)),
        content_bytes=int(lengths.sum()),
        size_quantiles_bytes=dict(zip(("min", "median", "p99", "max"), quantiles, strict=True)),
    )


def contact_sheet(dataset: Dataset) -> Image.Image:
    """A row of pictures for each class (at most 50), evenly spaced through the dataset; one row set without classes.

    Raises `DataError` when the dataset has no image.
    """
    rows = _sheet_rows(dataset)
    sheet = Image.new("RGB", (_NAME_PIXELS + _SHEET_COLUMNS * _TILE_PIXELS, len(rows) * _TILE_PIXELS), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (name, samples) in enumerate(rows):
        draw.text((4, y * _TILE_PIXELS + _TILE_PIXELS // 2 - 6), name[:15], fill="black")
        for x, i in enumerate(samples):
            tile = open_image(dataset.read_bytes(i), dataset.where(i))
            tile = tile.resize((_TILE_PIXELS - 2, _TILE_PIXELS - 2), Image.Resampling.BICUBIC)
            sheet.paste(tile.convert("RGB"), (_NAME_PIXELS + x * _TILE_PIXELS, y * _TILE_PIXELS))
    return sheet


def save_sheet(dataset: Dataset, path: Path) -> None:
    """Write the contact sheet as PNG; raises `DataError` when it cannot be written."""
    sheet = contact_sheet(dataset)
    try:
        sheet.save(path, format="PNG")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); choose another --sheet") from error


def _sheet_rows(dataset: Dataset) -> list[tuple[str, list[int]]]:
    is_image = np.isin(dataset.index["extension"], np.arange(len(IMAGE_EXTENSIONS)))
    if not is_image.any():
        raise DataError(f"{dataset.path}: no images to show; leave --sheet out")
    labels = dataset.labels
    shown = np.unique(labels[is_image & (labels != NO_LABEL)])[:_MAX_SHEET_CLASSES].tolist()
    groups = [(dataset.classes[label], np.flatnonzero(is_image & (labels == label))) for label in shown]
    unlabelled = np.flatnonzero(is_image & (labels == NO_LABEL))
    if len(unlabelled):
        groups.append(("", unlabelled))
    return [(name, _spread(rows, _SHEET_COLUMNS)) for name, rows in groups]


def _spread(rows: np.ndarray, num: int) -> list[int]:
    return rows[np.linspace(0, len(rows) - 1, min(num, len(rows))).astype(np.int64)].tolist()
