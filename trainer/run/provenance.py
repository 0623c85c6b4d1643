"""Where things come from: hashes of weights, versions, and what a run was started on.

inputs.json holds the base model's hashes and the datasets' fingerprints; a run writes it before its first step.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from ...shards.dataset import Dataset
from ..errors import ConfigError
from ..files import write_json
from ..models.hashing import weights_sha256
from ..models.model import Model

INPUTS_NAME = "inputs.json"
COMMIT_NAME = "COMMIT"  # beside a copy of the code: the commit it was copied from


def frozen_sha256(model: Model) -> dict[str, str]:
    """Of each part that does not train, by its name: of its weights, or of their hash and its settings as JSON."""
    parts, settings = model.frozen_parts, dict(model.frozen_settings)
    if trained_with := getattr(model.schedule, "trained_with", None):
        settings["schedule"] = trained_with
    found = {}
    for name in sorted({*parts, *settings}):
        found[name] = weights_sha256(parts[name].state_dict() if name in parts else {})
        if name in settings:
            text = found[name] + json.dumps(settings[name], sort_keys=True)
            found[name] = hashlib.sha256(text.encode()).hexdigest()
    return found


@dataclass(frozen=True)
class ModelStamp:
    """Which model it is: hashes of all its parts that decide results."""

    weights_sha256: str
    """`weights_sha256` of what trains."""
    frozen_sha256: dict[str, str] = field(default_factory=dict)
    """`frozen_sha256` of what does not."""

    @classmethod
    def of(cls, model: Model) -> ModelStamp:
        return cls(weights_sha256(model.module.state_dict()), frozen_sha256(model))

    def hashes(self) -> dict[str, str]:
        """By the words that name each to a user."""
        frozen = {f"weights or settings of '{name}'": sha256 for name, sha256 in self.frozen_sha256.items()}
        return {"weights": self.weights_sha256, **frozen}


@dataclass(frozen=True)
class DataStamp:
    """Which samples a dataset folder holds."""

    path: str
    fingerprint: str
    """SHA-256 over class names and every sample's key, label and content."""
    num_samples: int

    @classmethod
    def of(cls, data: Dataset) -> DataStamp:
        return cls(str(data.path), data.fingerprint, len(data))


def captions_sha256(data: Dataset) -> str:
    """SHA-256 (hex) over every sample's caption, in order: the fingerprint does not look at them."""
    digest = hashlib.sha256()
    for caption in data.captions:
        digest.update(caption.encode() + b"\0")
    return digest.hexdigest()


def order_sha256(data: Dataset) -> str:
    """SHA-256 (hex) of how many samples each shard holds: with the seed it decides the order of samples."""
    sizes = [shard.num_samples for shard in data.manifest.shards]
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Noted:
    noted_sha256: dict[str, str] = field(default_factory=dict)
    """Of what decides the result beside the rest, by the words that name each to a user; an older erasediff did not
    note all of them."""


@dataclass(frozen=True)
class Inputs(_Noted):
    """What a scrub was started on."""

    base_weights_sha256: str
    forget: DataStamp
    remain: DataStamp
    base_frozen_sha256: dict[str, str] = field(default_factory=dict)
    """As in `ModelStamp`; not written where there is no such part."""
    captions_sha256: dict[str, str] = field(default_factory=dict)
    """`captions_sha256` of forget and of remain, where the model is told prompts; not written otherwise."""

    @classmethod
    def of(cls, model: Model, forget: Dataset, remain: Dataset) -> Inputs:
        base, captions = ModelStamp.of(model), {}
        if model.conditions.kind == "a prompt":
            captions = {name: captions_sha256(data) for name, data in (("forget", forget), ("remain", remain))}
        noted = {
            f"shard sizes of {name}": order_sha256(data) for name, data in (("forget", forget), ("remain", remain))
        }
        for what, setting in model.own_settings.items():
            text = json.dumps(setting, sort_keys=True)
            noted[f"{what} of model.path"] = hashlib.sha256(text.encode()).hexdigest()
        return cls(
            base.weights_sha256,
            DataStamp.of(forget),
            DataStamp.of(remain),
            base.frozen_sha256,
            captions,
            noted_sha256=noted,
        )

    @property
    def base(self) -> ModelStamp:
        return ModelStamp(self.base_weights_sha256, self.base_frozen_sha256)

    def hashes(self) -> dict[str, str]:
        """By the words that name each to a user."""
        return {
            **{f"{what} of model.path": sha256 for what, sha256 in self.base.hashes().items()},
            "samples of forget": self.forget.fingerprint,
            "samples of remain": self.remain.fingerprint,
            **{f"captions of {name}": sha256 for name, sha256 in self.captions_sha256.items()},
        }


@dataclass(frozen=True)
class PretrainInputs(_Noted):
    """What a training from nothing was started on."""

    data: DataStamp
    captions_sha256: dict[str, str] = field(default_factory=dict)
    """`captions_sha256` of data, where the model is told prompts; not written otherwise."""

    @classmethod
    def of(cls, data: Dataset, *, by_prompts: bool) -> PretrainInputs:
        captions = {"data": captions_sha256(data)} if by_prompts else {}
        return cls(DataStamp.of(data), captions, noted_sha256={"shard sizes of data": order_sha256(data)})

    def hashes(self) -> dict[str, str]:
        """By the words that name each to a user."""
        captions = {f"captions of {name}": sha256 for name, sha256 in self.captions_sha256.items()}
        return {"samples of data": self.data.fingerprint, **captions}


@dataclass(frozen=True)
class ConceptInputs(_Noted):
    """What a concept's pictures were drawn for, and by which model."""

    request: dict[str, Any]
    base_weights_sha256: str
    base_frozen_sha256: dict[str, str] = field(default_factory=dict)

    def hashes(self) -> dict[str, str]:
        """By the words that name each to a user."""
        asked = hashlib.sha256(json.dumps(self.request, sort_keys=True).encode()).hexdigest()
        base = ModelStamp(self.base_weights_sha256, self.base_frozen_sha256)
        return {"words of request": asked} | {f"{what} of model.path": it for what, it in base.hashes().items()}


AnyInputs = Inputs | PretrainInputs | ConceptInputs
InputsT = TypeVar("InputsT", bound=AnyInputs)


def versions() -> dict[str, str]:
    """Of the packages that figures depend on, and of the code: a commit where it runs from a git checkout."""
    found = {name: version(name) for name in ("erasediff", "torch", "deepspeed", "diffusers", "torchmetrics", "numpy")}
    described = commit()
    return found | ({"commit": described} if described else {})


def commit() -> str | None:
    """Of the code that runs, `-dirty` where it was changed since; None where it is neither a checkout nor a copy."""
    root = Path(__file__).resolve().parents[2]
    if (root / COMMIT_NAME).exists():
        return (root / COMMIT_NAME).read_text().strip()
    if not (root / ".git").exists():
        return None
    try:
        described = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record_inputs(run: Path, inputs: AnyInputs) -> None:
    """Notes what the run works on when it is started first. Rank 0 calls it.

    Raises ConfigError where the run was begun on other weights or other samples than these.
    """
    check_inputs(run, inputs)
    if not (run / INPUTS_NAME).exists():
        values = asdict(inputs)
        write_json(run / INPUTS_NAME, {key: value for key, value in values.items() if value != {}})


def check_inputs(run: Path, inputs: AnyInputs) -> None:
    """Raises ConfigError where the run, if there is one, was begun on other weights or samples; writes nothing."""
    recorded = read_inputs(run, type(inputs))
    if recorded is None:
        return
    noted = {what: sha256 for what, sha256 in inputs.noted_sha256.items() if what in recorded.noted_sha256}
    changed = [
        f"other {what} ({there}… there, {now}… now)"
        for what, now, there in differing(inputs.hashes() | noted, recorded.hashes() | recorded.noted_sha256)
    ]
    if changed:
        raise ConfigError(
            f"output = '{run}' was begun with {', '.join(changed)}: put back what it was begun with, "
            "or choose another output"
        )


def differing(ours: dict[str, str], theirs: dict[str, str]) -> list[tuple[str, str, str]]:
    """What the two do not have alike, and how either hash of it begins; "none" where there is none."""
    return [
        (what, ours.get(what, "none")[:12], theirs.get(what, "none")[:12])
        for what in ours | theirs
        if ours.get(what) != theirs.get(what)
    ]


def read_inputs(run: Path, kind: type[InputsT] = Inputs) -> InputsT | None:
    """What `record_inputs` noted; None for a run without it. Raises ConfigError for a damaged file."""
    path = run / INPUTS_NAME
    try:
        return TypeAdapter(kind).validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ConfigError(f"{path} is damaged: put it back, or choose another output") from None
