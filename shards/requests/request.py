"""An erasure request: who asked when and why, and which samples it means. TOML or JSON."""

import datetime
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, StrictInt, TypeAdapter, ValidationError, with_config

from .. import strict_json
from ..errors import DataError, is_unicode, shorten

MAX_REQUEST_BYTES = 1 << 28


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Selector:
    """Samples for which every given condition holds; at least one must be given."""

    keys: tuple[str, ...] = ()
    """The sample's key is one of these; each must exist."""
    labels: tuple[str | StrictInt, ...] = ()
    """Its class is one of these, by name or, where no class name is a number, by position from 0."""
    captions: tuple[str, ...] = ()
    """Its caption matches one of these patterns: `*` for anything, `?` for one character.
    Neither case nor the way Unicode spells a letter matters, nor how many spaces or line ends there are."""
    metadata: tuple[str, ...] = ()
    """Each of these comparisons holds; see `expression`."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Request:
    """The whole of a request file. A sample is to be forgotten if any selector selects it."""

    selectors: tuple[Selector, ...]
    id: str = ""
    date: datetime.date | None = None
    reason: str = ""
    name: str = field(default="request", kw_only=True)
    """What messages call it: the file's path."""


_ADAPTER = TypeAdapter(Request)


def read_request(path: Path) -> Request:
    """Read a request; raises `DataError` for unknown fields, wrong types, or selectors without a condition."""
    try:
        # a pipe or device has no size to ask for
        with path.open("rb") as file:
            data = file.read(MAX_REQUEST_BYTES + 1)
        if len(data) > MAX_REQUEST_BYTES:
            raise DataError(f"{path}: more than {MAX_REQUEST_BYTES:,} bytes; give labels or patterns instead of keys")
        text = data.decode()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a .toml or .json request") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; give a .toml or .json request") from None
    return parse_request(text, path)


def parse_request(text: str, path: Path) -> Request:
    """`read_request` for text that came from `path`; JSON if it ends in .json, TOML otherwise."""
    try:
        fields = strict_json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        # a thousand nested brackets are a RecursionError in both parsers
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {error}; give a .toml or .json request") from None
    if not isinstance(fields, dict) or "name" in fields:
        raise DataError(f"{path}: expected the fields id, date, reason and selectors")
    try:
        request = _ADAPTER.validate_python(fields | {"name": str(path)})
    except ValidationError as error:
        # what is there and unknown says more than what is missing
        first = min(error.errors(), key=lambda found: found["type"] == "missing")
        place = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].replace("tuple", "list")
        raise DataError(
            f"{path}: {place}: {problem}; a request has id, date, reason and [[selectors]], "
            "each with keys, labels, captions or metadata"
        ) from None
    if not request.selectors or Selector() in request.selectors:
        raise DataError(f"{path}: selectors: each needs at least one of keys, labels, captions, metadata")
    # a list that came out empty would leave the other conditions to mean more than was asked
    for number, selector in enumerate(fields["selectors"], 1):
        if empty := [name for name, values in selector.items() if not values]:
            raise DataError(f"{path}: selector {number}: {shorten(empty)} is empty; name something, or leave it out")
    if not all(is_unicode(text) for text in _texts(request)):
        raise DataError(f"{path}: half a character (\\ud800 to \\udfff alone) in a text; write it again in UTF-8")
    return request


def _texts(request: Request) -> Iterator[str]:
    yield from (request.id, request.reason)
    for selector in request.selectors:
        yield from (*selector.keys, *map(str, selector.labels), *selector.captions, *selector.metadata)
