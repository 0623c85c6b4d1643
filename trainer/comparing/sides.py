"""The model and the sets that all rows of a comparison share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ...shards.dataset import Dataset
from ..config import ScrubConfig
from ..models.families import load_model
from ..models.fitting import Fitted, fit
from ..models.model import Model


@dataclass(frozen=True)
class Sides:
    """What `make_bench` asks for."""

    config: ScrubConfig
    unscrubbed: Model
    fitted_forget: Fitted
    fitted_remain: Fitted

    @classmethod
    def of(cls, config: ScrubConfig) -> Sides:
        model = load_model(config.model)
        return cls(config, model, *(fit(Dataset.open(path), model) for path in (config.forget, config.remain)))

    @property
    def forget(self) -> Dataset:
        return self.fitted_forget.data

    @property
    def remain(self) -> Dataset:
        return self.fitted_remain.data


def hash_of_path(path: Path) -> str:
    """Of a dataset its fingerprint; of another folder and of a file SHA-256 of what is in it."""
    if (path / "dataset.json").exists():
        return Dataset.open(path).fingerprint
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(f"{file.relative_to(path)} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
