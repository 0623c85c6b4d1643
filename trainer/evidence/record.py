"""The erasure record, record.json: what was asked, done and measured, for auditors. `docs/record.md` is its schema."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from ..errors import ConfigError
from ..run.provenance import DataStamp, ModelStamp, now
from .classifier import ClassifierCard
from .detector import DetectorCard
from .metrics import Measurement
from .relearning import RelearningPoint
from .thresholds import Overall, Verdict, tells_nothing

RECORD_NAME = "record.json"
CopyReach = Literal["reached", "not reached", "not ours"]
Reach = Literal["complete", "partial"]
SCHEMA_VERSION = 3
_SCHEMA = re.compile(r"erasediff-record-(\d+)")
STATEMENT = (
    "Approximate unlearning is evidence, not proof: the figures below show what the scrubbed model does on these "
    "samples and tests, not that nothing of the forget set is left in its weights."
)


class Strict:
    """What is written in a record; a key more is refused."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True)
class Place(Strict):
    """Where an entry stands in its chain, see `ledger`."""

    number: int
    """From 1."""
    previous_sha256: str | None
    """Of the file of the entry before; None for the first."""
    written: str
    """When, UTC."""
    host: str
    """The machine that wrote it."""

    @classmethod
    def of(cls, number: int, previous_sha256: str | None) -> Place:
        """Here and now."""
        return cls(number, previous_sha256, now(), socket.gethostname())


@dataclass(frozen=True)
class RequestEntry(Strict):
    """The erasure request a run answers; empty where the sets were split without one."""

    id: str = ""
    date: str | None = None
    reason: str = ""
    path: str = ""
    sha256: str = ""
    """Of the file."""
    keys_asked: int = 0
    """Samples that it names by key; others it selects by class, caption or metadata."""
    keys_found: int = 0
    """How many of them are in D_f."""


@dataclass(frozen=True)
class Link(Strict):
    """Another file that a record rests on."""

    path: str
    sha256: str


@dataclass(frozen=True)
class ModelEntry(Strict):
    """One of the models side by side."""

    path: str
    weights_sha256: str
    """`provenance.weights_sha256` of the weights that were evaluated."""
    measured: str
    """Date of the evaluation that measured it: another one's, for a recorded retrained model."""
    metrics: dict[str, Measurement]
    num_non_finite: int
    """Generated samples with a NaN or Inf; they are in no figure."""
    relearning: list[RelearningPoint] = field(default_factory=list)
    frozen_sha256: dict[str, str] = field(default_factory=dict)
    """The same of each part that does not train, see `provenance.ModelStamp`; not written where there is none."""

    @property
    def stamp(self) -> ModelStamp:
        return ModelStamp(self.weights_sha256, self.frozen_sha256)


@dataclass(frozen=True)
class RunEntry(Strict):
    """What happened while scrubbing."""

    num_steps: int
    capped_steps: int
    """λ_t was cut to lambda_cap: Theorem 3.1's constraint does not hold on these."""
    infeasible_steps: int
    """∇g was zero while the barrier was not."""
    skipped_steps: int
    """A loss or gradient was not finite, and nothing was updated."""
    interruptions: int
    """How often the run was started again before it was finished."""
    starts: list[dict[str, Any]]
    """Each of them, the oldest first: date, ranks, threads, versions, settings, its checkpoint and how it ended."""


@dataclass(frozen=True)
class EarlierEntry(Strict):
    """An earlier scrub of this model: its forget set is in no remain set of this one."""

    id: str
    """Of its request; empty where there was none."""
    date: str | None
    classes: list[str]
    """Of which nothing remained."""
    num_samples: int
    num_measured: int
    """Of them, how many the data still have, so that they could be measured again."""


@dataclass(frozen=True)
class Copy(Strict):
    """Samples that were forgotten, or weights trained on them: to be deleted, or kept for a stated reason."""

    path: str
    holds: str
    reach: CopyReach
    """reached: what it holds is scrubbed, or it is gone. not reached: it lies in the erasure's own folder. not ours: it
    lies elsewhere, and is the user's to decide on."""

    @property
    def is_with_a_service(self) -> bool:
        """Whether the path is no file's but names what a service keeps, which cannot be looked at from here."""
        return "://" in self.path


@dataclass(frozen=True)
class Record(Strict):
    """The whole of record.json."""

    schema: str
    place: Place
    kind: Literal["evaluation"]
    date: str
    """Of the evaluation, UTC."""
    follows: Link | None
    """The entry that published the model this one begins with: an earlier request's. None: it was not published so."""
    request: RequestEntry
    statement: str
    forgotten_classes: list[str]
    """Classes of which nothing remains; empty where single samples were forgotten."""
    forget: DataStamp
    remain: DataStamp
    held_out: DataStamp | None
    """What membership compares D_f with."""
    models: dict[str, ModelEntry]
    """unscrubbed, scrubbed and, where there is one, retrained."""
    thresholds: list[Verdict]
    verdict: Overall
    """Whether forgetting is shown and the rest kept: shown, not shown, or failed."""
    retrained_thresholds: list[Verdict]
    """The same thresholds held against the retrained model; empty where there is none."""
    retrained_verdict: Overall | None
    """And the verdict on it."""
    advice: list[str]
    """What to try next where the scrub failed, and whether the retrained model can be published instead."""
    run: RunEntry
    classifier: ClassifierCard
    config: dict[str, Any]
    """The scrub's resolved configuration; the settings that may change from start to start are in `run.starts`."""
    judge: dict[str, Any]
    """The evaluation's resolved configuration, its seeds among them."""
    copies: list[Copy]
    reach: Reach
    """partial, unless all copies are reached."""
    versions: dict[str, str]
    class_map: dict[str, int] = field(default_factory=dict)
    """The model's class of each class of the data."""
    forgotten_before: list[EarlierEntry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was done to the data, and what is not known."""
    features_sha256: str | None = None
    """Of a network that compares images in the judge's place, `judge.features`; not written where there is none."""
    clip_sha256: str | None = None
    """Of the CLIP model that scores prompts, `judge.clip`; not written where there is none."""
    detector: DetectorCard | None = None
    """What found exposed parts, `judge.detector`; not written where there is none."""
    prompts_sha256: str | None = None
    """Of the file of prompts, `judge.prompts`; not written where there is none."""
    kept_prompts_sha256: str | None = None
    """The same of `judge.kept_prompts`."""
    data: DataStamp | None = None
    """What the judge was trained on, where none was named, and what says how classes are asked for. None: not known."""
    asked_sha256: str | None = None
    """Of the prompts that models were asked; not written where they were asked for classes."""
    factor: DataStamp | None = None
    """The data of `judge.factor`; not written where there is none."""
    factor_classifier: ClassifierCard | None = None
    """The judge that was trained on them; the same."""
    absolute_paths: dict[str, str] = field(default_factory=dict)
    """Of each path above, as it was given."""
    forget_samples: dict[str, str] = field(default_factory=dict)
    """D_f by key: the first half of the SHA-256 of each sample's bytes, hex."""

    def tells_nothing(self, verdict: Verdict) -> bool:
        """Whether the unscrubbed model holds a threshold on forgetting as well."""
        return tells_nothing(verdict.threshold, {name: entry.metrics for name, entry in self.models.items()})


_ADAPTER = TypeAdapter(Record)
_NOT_WRITTEN_WITHOUT_A_VALUE = (
    *("features_sha256", "clip_sha256", "prompts_sha256", "kept_prompts_sha256"),
    *("data", "asked_sha256", "factor", "factor_classifier", "detector"),
)


def schema_name() -> str:
    return f"erasediff-record-{SCHEMA_VERSION}"


def record_values(record: Record) -> dict[str, Any]:
    """As it is written."""
    values = asdict(record)
    for model in values["models"].values():
        if not model["frozen_sha256"]:
            del model["frozen_sha256"]
    for name in _NOT_WRITTEN_WITHOUT_A_VALUE:
        if values[name] is None:
            del values[name]
    return values


def read_record(path: Path) -> Record:
    """Reads a record of this schema or raises ConfigError: missing, another file, or from a newer erasediff."""
    return decode_values(read_values(path), path)


def read_values(path: Path) -> dict[str, Any]:
    """The same without looking at more than the schema."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such record") from None
    except (IsADirectoryError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not a record: {error}") from None
    schema = values.get("schema") if isinstance(values, dict) else None
    match = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    if match is None:
        raise ConfigError(f"{path} is not a record: its schema is {schema!r}, expected {schema_name()!r}")
    if int(match[1]) > SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has schema {schema}, newer than this erasediff reads ({schema_name()}): upgrade erasediff"
        )
    if int(match[1]) < SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has schema {schema}, an older erasediff's: remove it, and the same command evaluates again"
        )
    return values


def decode_values(values: dict[str, Any], path: Path, adapter: TypeAdapter[Any] = _ADAPTER) -> Any:
    """Raises ConfigError for what the schema does not have."""
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {place}: {first['msg']}; put the file back as it was written") from None
