"""The code and the settings as they are at submission: what a job runs, however often it starts."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...trainer.config.toml import dump_toml
from ...trainer.errors import ConfigError
from ...trainer.files import write_text
from ..doctor.command import Doctor
from ..job import COMMANDS, Job

if TYPE_CHECKING:
    from ...trainer.config import ModelConfig

PACKAGES = ("kernels", "launch", "shards", "trainer")
_NAME_DIGITS = 12  # of a hash


def _sources() -> dict[str, bytes]:
    """The code that runs here, by its path below `erasediff/`."""
    found: dict[str, bytes] = {}
    for package in PACKAGES:
        spec = find_spec(f"{__name__.partition('.')[0]}.{package}")
        assert spec is not None and spec.submodule_search_locations
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(folder.rglob("*.py")):
            found[f"{package}/{path.relative_to(folder)}"] = path.read_bytes()
    return found


def code_path(slurm: Path) -> Path:
    """Where below OUTPUT/slurm the code that runs here is kept: a folder to import `erasediff` from."""
    digest = hashlib.sha256()
    for name, content in sorted(_sources().items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return slurm / f"code-{digest.hexdigest()[:_NAME_DIGITS]}"


def keep_code(slurm: Path) -> Path:
    """Copies the code there, once; returns the folder."""
    from ...trainer.run.provenance import COMMIT_NAME, commit

    kept = code_path(slurm)
    if kept.exists():
        return kept
    partial = kept.with_name(kept.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, content in _sources().items():
        path = partial / "erasediff" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if described := commit():
        (partial / "erasediff" / COMMIT_NAME).write_text(described + "\n")
    partial.rename(kept)
    return kept


def keep_config(slurm: Path, job: Job) -> tuple[str, ...]:
    """Writes a job's settings below OUTPUT/slurm; returns the words that read them from there."""
    if isinstance(job.read, Doctor):  # it asks about the nodes as they are, and has no file of its own
        return job.words
    text = dump_toml(job.config)
    path = slurm / f"config-{hashlib.sha256(text.encode()).hexdigest()[:_NAME_DIGITS]}.toml"
    slurm.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    words = (str(path), *getattr(job.read, "beside", ()))
    again = COMMANDS[job.command].read(words, prog=job.command)
    assert again == job.read, f"{path} does not say what was submitted"
    return (*job.command.split(), *words)


def pinned(config: Any) -> Any:
    """Settings whose Hub ids name one revision, fetched here: the nodes work offline.

    Raises ConfigError for an id that the Hub does not give.
    """
    model: ModelConfig | None = getattr(config, "model", None)
    if model is None or Path(model.path).is_dir():
        return config
    from ...trainer.models.pipeline import resolve

    folder = resolve(model)
    if folder.parent.name != "snapshots":  # a cache keeps each revision under its hash
        raise ConfigError(f"model.path = {model.path!r}: '{folder}' does not say which revision it is")
    return dataclasses.replace(config, model=dataclasses.replace(model, revision=folder.name))
