"""A reference's samples, kept beside its row: a comparison that goes on measures other models against the same."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..evidence.bench import Bench, Samples
from ..evidence.evaluation import Figures
from ..tensors import save_tensors
from .rows import read_row


def keep(samples: Samples, path: Path, measured_by: str) -> None:
    """There only when it is complete. path: the row's, without its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = {str(side): images.images for side, images in enumerate(samples.sides)}
    save_tensors(images, path.with_suffix(".safetensors"), {"measured_by": measured_by})


def kept(path: Path, bench: Bench, measured_by: str) -> Figures | None:
    """What was measured so, and is still there whole."""
    row, file = read_row(path.with_suffix(".json")), path.with_suffix(".safetensors")
    if row is None or row.measured_by != measured_by or not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            if stored.metadata() != {"measured_by": measured_by}:  # a kill came between row and samples
                return None
            images = [stored.get_tensor(str(side)) for side in range(len(stored.keys()))]
    except SafetensorError:  # torn: they are drawn again
        return None
    samples = Samples.again(bench, images)
    num_non_finite = sum(len(side) - int(side.is_finite.sum()) for side in samples.sides)
    return Figures(row.metrics, row.relearning, samples, num_non_finite)
