"""erasediff.json in a model's folder: its classes, what it was trained on, and what it has forgotten. No torch here.

The card beside it, README.md, says the same to a person. Of what was forgotten it holds keys and hashes, never content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from ...shards.dataset import Dataset
from ...shards.errors import shorten
from ...shards.format.index import hash_numbers
from ...shards.requests.split import REQUEST_NAME
from ..errors import ConfigError
from ..files import write_json
from .conditions import as_told

LINEAGE_NAME = "erasediff.json"
FORMAT = "erasediff-model-1"


class _Strict:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True)
class TrainedOn(_Strict):
    """A dataset that a model was trained on."""

    name: str
    fingerprint: str
    """`Dataset.fingerprint`."""
    num_samples: int

    @classmethod
    def of(cls, data: Dataset) -> TrainedOn:
        return cls(data.name, data.fingerprint, len(data))


@dataclass(frozen=True)
class Forgotten(_Strict):
    """What one scrub was asked to erase."""

    id: str
    """Of the erasure request, empty where there was none."""
    date: str | None
    """The same."""
    classes: dict[str, int]
    """Name and index in the model of each class of which nothing remained."""
    keys: tuple[str, ...]
    content_hashes: tuple[str, ...]
    """Of each of these samples: the first half of its bytes' SHA-256, hex."""
    prompts: tuple[str, ...] = ()
    """Of each prompt of which nothing remained, as it is told: the first half of its SHA-256, hex; not written where
    there is none."""

    @classmethod
    def of(cls, forget: Dataset, gone: Sequence[int], prompts: Sequence[str]) -> Forgotten:
        """A scrub's D_f, which is all that there was of the classes `gone` and of these prompts; id and date are its
        request's."""
        request = _request_of(forget)
        return cls(
            id=str(request.get("id") or ""),
            date=request.get("date"),
            classes={forget.classes[label]: label for label in gone},
            keys=tuple(forget.keys),
            content_hashes=tuple(value.tobytes().hex() for value in forget.index["content_hash"]),
            prompts=tuple(_hash_of(as_told(prompt)) for prompt in prompts),
        )

    def is_gone(self, condition: Hashable) -> bool:
        """Whether it is a class or a prompt of which nothing remained."""
        if isinstance(condition, str):
            # as it was written, too: so earlier versions kept it
            return not {_hash_of(as_told(condition)), _hash_of(condition)}.isdisjoint(self.prompts)
        return condition in self.classes.values()

    def __str__(self) -> str:
        """For messages."""
        return f"request {self.id}" if self.id else "an earlier scrub"


@dataclass(frozen=True)
class Lineage(_Strict):
    """The whole of erasediff.json."""

    format: str = FORMAT
    classes: tuple[str | None, ...] = ()
    """The name of each class by its index; None for the null class and for one that is not known."""
    null_class: int | None = None
    trained_on: tuple[TrainedOn, ...] | None = None
    """Oldest first; None: not known."""
    forgotten: tuple[Forgotten, ...] = ()
    """Oldest first; a scrub hands on what its base had forgotten."""


_ADAPTER = TypeAdapter(Lineage)


def write_lineage(lineage: Lineage, folder: Path) -> None:
    values = asdict(lineage)
    for one in values["forgotten"]:
        if not one["prompts"]:
            del one["prompts"]
    write_json(folder / LINEAGE_NAME, values)


def read_lineage(folder: Path) -> Lineage:
    """What a model's folder says of it; an empty one says nothing. Raises ConfigError for a damaged or newer file."""
    path = folder / LINEAGE_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Lineage()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): put the model's own file back") from None
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise ConfigError(f"{path} has format {found!r}, this erasediff reads {FORMAT!r}: upgrade erasediff")
    try:
        # by way of JSON, whose lists become tuples
        return _ADAPTER.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {place}: {first['msg']}; put the model's own file back") from None


def forgotten_rows(
    forgotten: Sequence[Forgotten], data: Dataset, told: Callable[[Dataset], Sequence[Hashable]]
) -> np.ndarray:
    """bool [N]: samples of `data` that were forgotten: the same key or content, or a class or prompt that is gone.

    The labels of `data` are the model's classes; `told` says what the model is told for each sample.
    """
    rows = np.zeros(len(data), dtype=bool)
    for one in forgotten:
        rows |= np.isin(data.index["key"], np.array([key.encode() for key in one.keys] or [b""]))
        rows |= np.isin(hash_numbers(data.index), np.array([bytes.fromhex(text) for text in one.content_hashes], "S16"))
        rows |= np.isin(data.labels, list(one.classes.values()))
    if any(one.prompts for one in forgotten):  # captions take reading
        conditions = told(data)
        gone = {prompt for prompt in set(conditions) if any(one.is_gone(prompt) for one in forgotten)}
        rows |= np.array([condition in gone for condition in conditions])
    return rows


def _hash_of(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


def describe_forgotten(forgotten: Sequence[Forgotten]) -> str:
    """The requests' names, for messages."""
    return shorten(dict.fromkeys(str(one) for one in forgotten))


def _request_of(forget: Dataset) -> dict[str, Any]:
    """The request that `split` wrote beside a forget set; empty where there is none."""
    try:
        recorded = json.loads((forget.path.parent / REQUEST_NAME).read_text(encoding="utf-8"))
        return dict(recorded["request"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
