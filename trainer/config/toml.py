"""Settings from TOML and back. Errors are one line that names the file and the key. No torch here."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import TypeAdapter, ValidationError

from ..errors import ConfigError
from .base import Settings
from .methods import DEFAULT_METHOD, method_kind

SettingsT = TypeVar("SettingsT", bound=Settings)


# how a setting that is not set stands in TOML, which has no null
NONE = "none"


def as_dict(settings: Settings) -> dict[str, Any]:
    """Nested plain values, as TOML can hold them; None is written "none"."""
    assert dataclasses.is_dataclass(settings)

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return NONE if value is None else value

    return plain(dataclasses.asdict(settings))


def dump_toml(settings: Settings) -> str:
    return tomli_w.dumps(as_dict(settings))


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise ConfigError(f"{path} is not a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def decode(kind: type[SettingsT], values: dict[str, Any], source: str) -> SettingsT:
    """`values` as `kind`; ConfigError names the first key that is unknown, missing or of another type."""
    values = _without_none(values)
    section = values.get("method")
    if isinstance(section, dict):
        # first by itself: what is wrong with it is told by its own name
        try:
            method = method_kind(section.get("name", DEFAULT_METHOD))
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}" if source else str(error)) from None
        _strictly(method, section, source, "method.")
    return _strictly(kind, values, source)


def over_defaults(kind: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    """A section of the file over the defaults that this command has for it, which may not be the section's own."""
    defaults = kind.section_defaults(values)
    sections = {name: section for name, section in values.items() if isinstance(section, dict) and name in defaults}
    return values | {name: as_dict(defaults[name]) | section for name, section in sections.items()}


def with_setting(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The settings with that of a dotted key changed; a table changes those it names."""
    head, dot, rest = key.partition(".")
    section = values.get(head, {})
    if dot:
        return values | {head: with_setting(section if isinstance(section, dict) else {}, rest, value)}
    if isinstance(value, dict) and isinstance(section, dict):
        for inner, one in value.items():
            section = with_setting(section, inner, one)
        return values | {head: section}
    return values | {head: value}


def check_ranges(settings: Settings) -> None:
    """Raises ConfigError for a number that is out of its field's range, in settings made without a file."""
    decode(type(settings), as_dict(settings), "")


def _strictly(kind: type[SettingsT], values: dict[str, Any], source: str, prefix: str = "") -> SettingsT:
    """Types as they stand: no text for a number, no truth value for one. By way of JSON, whose lists become tuples."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        where = f"{source}: " if source else ""
        raise ConfigError(f"{where}{_explain(kind, error, prefix)}") from None


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else None if value == NONE else value
        for key, value in values.items()
    }


def _explain(kind: type[Settings], error: ValidationError, prefix: str = "") -> str:
    first = error.errors(include_url=False)[0]
    # a union's member shows up in the location under its class name
    location = [str(part) for part in first["loc"] if not str(part).endswith("Config")]
    key = prefix + ".".join(location)
    if first["type"] == "unexpected_keyword_argument":
        known = _fields_at(kind, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"unknown key {key}; {hint}"
    if first["type"] in ("missing", "missing_argument"):
        return f"{key} is missing"
    if first["type"] == "value_error":
        return str(first.get("ctx", {})["error"])  # our own check, which names its keys
    bounds = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    for bound, limit in first.get("ctx", {}).items():
        if bound in bounds:
            or_none = f", or '{NONE}'" if _may_be_none(kind, location) else ""
            number = "2^63" if limit == 1 << 63 else format(limit, "g")
            return f"{key} = {first['input']}: {bounds[bound]} {number}{or_none}"
    if first["type"] == "finite_number":
        return f"{key} = {first['input']}: a finite number"
    return f"{key} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _fields_at(kind: type[Settings], location: list[str]) -> list[str]:
    kinds: list[Any] = [kind]
    for name in location:
        hint = typing.get_type_hints(kinds[0])[name]
        kinds = list(typing.get_args(hint)) if isinstance(hint, types.UnionType) else [hint]
    return [field.name for inner in kinds if dataclasses.is_dataclass(inner) for field in dataclasses.fields(inner)]


def _may_be_none(kind: type[Settings], location: list[str]) -> bool:
    hint: Any = kind
    for name in location:
        hint = typing.get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
    return type(None) in typing.get_args(hint)
