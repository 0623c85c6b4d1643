"""README.md of a dataset folder: what a person sees who finds it."""

from pathlib import Path

import numpy as np

from ..format.index import NO_LABEL
from ..format.manifest import Manifest

CARD_NAME = "README.md"
_MAX_LISTED_CLASSES = 100


def write_card(folder: Path, manifest: Manifest, index: np.ndarray) -> None:
    """Write the card; the same dataset gives the same bytes."""
    (folder / CARD_NAME).write_text(card(manifest, index), encoding="utf-8")


def card(manifest: Manifest, index: np.ndarray) -> str:
    """Markdown with counts, sizes, classes, and how to read the data."""
    shape = manifest.image
    num_excluded = sum(shard.num_excluded for shard in manifest.shards)
    excluded = f" ({num_excluded:,} other samples of these shards are excluded)" if num_excluded else ""
    lines = [
        f"# {manifest.name}",
        "",
        f"- samples: {manifest.num_samples:,}{excluded}",
        f"- content: {index['length'].sum(dtype=np.uint64) / 1e6:,.1f} MB in {len(manifest.shards):,} shard(s)",
        f"- images: {f'{shape.width} × {shape.height}, {shape.channels} channel(s)' if shape else 'of several sizes'}",
        f"- with caption: {np.count_nonzero(index['text_length']):,}",
        f"- fingerprint: `{manifest.fingerprint}`",
        "",
        *_class_table(manifest.classes, index["label"]),
        "Read it with `erasediff.shards.Dataset.open`, or its tars with any WebDataset reader"
        + (" (which knows nothing of exclusions)." if num_excluded else "."),
        "`erasediff shards verify` checks every byte.",
    ]
    return "\n".join(lines) + "\n"


def _class_table(classes: tuple[str, ...], labels: np.ndarray) -> list[str]:
    labelled = labels[labels != NO_LABEL]
    if not classes or not len(labelled):
        return []
    counts = np.bincount(labelled, minlength=len(classes)).tolist()
    rows = [f"| {name} | {count:,} |" for name, count in zip(classes, counts, strict=True)]
    more = [f"| and {len(rows) - _MAX_LISTED_CLASSES} more | |"] if len(rows) > _MAX_LISTED_CLASSES else []
    return ["| class | samples |", "|---|---|", *rows[:_MAX_LISTED_CLASSES], *more, ""]
