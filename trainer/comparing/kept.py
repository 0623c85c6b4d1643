"""A reference's samples, kept beside its row: a comparison that goes on measures other models against the same.

And what each sample did to each figure, which no row has.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..evidence.bench import Bench, Samples
from ..evidence.evaluation import Figures
from ..evidence.pairing import Influences
from ..tensors import save_tensors
from .rows import read_row

_SIDE = "samples of side "


def keep(figures: Figures, path: Path, measured_by: str) -> None:
    """There only when it is complete. path: the row's, without its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{_SIDE}{side}": images.images for side, images in enumerate(figures.samples.sides)}
    for metric, by_class in figures.influences.items():
        tensors |= {f"{metric}\n{name}": values for name, values in by_class.items()}
    save_tensors(tensors, path.with_suffix(".safetensors"), {"measured_by": measured_by})


def kept(path: Path, bench: Bench, measured_by: str) -> Figures | None:
    """What was measured so, and is still there whole."""
    row, file = read_row(path.with_suffix(".json")), path.with_suffix(".safetensors")
    if row is None or row.measured_by != measured_by or not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            if stored.metadata() != {"measured_by": measured_by}:  # a kill came between row and samples
                return None
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except SafetensorError:  # torn: they are drawn again
        return None
    sides = sorted(key for key in tensors if key.startswith(_SIDE))
    if not sides:  # kept by an older erasediff, which did not have what comes below
        return None
    samples = Samples.again(bench, [tensors.pop(key) for key in sides])
    influences: Influences = {}
    for key, values in tensors.items():
        metric, name = key.split("\n", 1)
        influences.setdefault(metric, {})[name] = values
    num_non_finite = sum(len(side) - int(side.is_finite.sum()) for side in samples.sides)
    return Figures(row.metrics, influences, row.relearning, samples, num_non_finite)
