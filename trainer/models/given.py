"""A pipeline that is given as an object, saved once as the folder that a run begins from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from ..errors import ConfigError
from ..files import open_up
from .hashing import weights_sha256
from .lineage import LINEAGE_NAME

# of a component's settings, what says who saved it
_SAVED_BY = ("_diffusers_version", "_name_or_path", "transformers_version")


def save_once(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Saves it, its lineage too; raises ConfigError where the folder is there and holds another model."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.save_pretrained(partial)
    known = Path(str(pipeline.name_or_path)) / LINEAGE_NAME
    if known.is_file():  # diffusers loads and saves what it knows, and this it does not
        shutil.copyfile(known, partial / LINEAGE_NAME)
    open_up(partial)
    if not folder.exists():
        partial.rename(folder)
        return
    is_other = _hashes(folder) != _hashes(partial)
    shutil.rmtree(partial)
    if is_other:
        raise ConfigError(f"'{folder}' holds another model than the one given: remove it, or choose another output")


def _hashes(folder: Path) -> dict[str, Any]:
    """Of each of a folder's files: of weights their hash, of settings what they say of the model."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found[str(path.relative_to(folder))] = weights_sha256(load_file(path))
    for path in sorted(folder.rglob("*.json")):
        settings = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(settings, dict):  # where from, and by which version, may differ
            settings = {key: value for key, value in settings.items() if key not in _SAVED_BY}
        found[str(path.relative_to(folder))] = settings
    return found
