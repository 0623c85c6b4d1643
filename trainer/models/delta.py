"""What a scrub has changed, as one file: far smaller than the model where few layers trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, equal

from ..config import ModelConfig
from ..errors import ConfigError
from ..tensors import save_tensors
from .hashing import weights_sha256
from .pipeline import WEIGHTS_NAME, components, loading, read_index, resolve, stored_weights

FORMAT = "erasediff-delta-1"


def _kinds(tensors: dict[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {name: (value.shape, value.dtype) for name, value in tensors.items()}


def write_delta(base: ModelConfig, scrubbed: Path, output: Path) -> dict[str, Tensor]:
    """Writes the tensors of `scrubbed` that are not those of `base`, as they are stored there; returns them.

    The file's metadata say which part of the pipeline they are of and the SHA-256 of that part's weights in the base.
    Raises ConfigError where the two are not of one architecture, differ in more than one part, or do not differ.
    """
    folder = resolve(base)
    changed = {}
    for part in components(read_index(scrubbed)):
        if not any(any((where / part).glob(f"{Path(WEIGHTS_NAME).stem}*")) for where in (folder, scrubbed)):
            continue  # what transformers loads encodes text, and does not train
        with loading(f"base = '{base.path}'"):
            before = stored_weights(folder / part, base.variant)
        with loading(f"model = '{scrubbed}'"):
            after = stored_weights(scrubbed / part, base.variant)
        if _kinds(before) != _kinds(after):
            raise ConfigError(
                f"'{scrubbed / part}' has other tensors than '{folder / part}', or the same in another type: it was "
                "not made from that"
            )
        differing = {name: value for name, value in after.items() if not equal(value, before[name])}
        if differing:
            changed[part] = differing, weights_sha256(before)
    if len(changed) != 1:
        found = f"differ in {', '.join(changed)}" if changed else "are the same"
        raise ConfigError(f"'{scrubbed}' and '{folder}' {found}: name a scrubbed model and the one it was made from")
    ((part, (tensors, base_sha256)),) = changed.items()
    metadata = {"format": "pt", "erasediff": FORMAT, "part": part, "base_weights_sha256": base_sha256}
    output.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, output, metadata)
    return tensors
