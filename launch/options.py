"""Options from a TOML file and the command line; the command line wins."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from ..trainer.config import METHOD_CONFIGS, EraseDiffConfig, Settings, default_sections
from ..trainer.config.toml import NONE, as_dict, decode, read_toml
from ..trainer.errors import ConfigError

SettingsT = TypeVar("SettingsT", bound=Settings)
OptionsT = TypeVar("OptionsT")

# stands for a required key that the file leaves to the command line
_LEFT_OUT = "\0left to the command line"


def read_settings(kind: type[SettingsT], words: Sequence[str], *, prog: str, note: str = "") -> SettingsT:
    """`kind` from [FILE.toml] OPTION…: what the file leaves out has its default, what an option names is the option's.

    `note` ends the description that --help prints.

    Raises ConfigError for the file and for the options, leaves through SystemExit for --help.
    """
    words = [_with_none(word) for word in words]
    values: dict[str, Any] = {}
    source = "the command line"
    if words and not words[0].startswith("-"):
        source = words.pop(0)
        values = read_toml(Path(source))
    if any(field.name == "method" for field in dataclasses.fields(kind)):  # pyright: ignore[reportArgumentType]
        method = _named_method(words)
        section = values.setdefault("method", {})
        if method is not None and isinstance(section, dict) and section.get("name", "erasediff") != method:
            values["method"] = section = {}
        if isinstance(section, dict):
            section["name"] = method or section.get("name", "erasediff")
            if (target := _last_of(words, "--method.target")) is not None:
                section["target"] = target  # defaults depend on it
            if section["name"] not in list(METHOD_CONFIGS):  # a list in the file has no hash
                raise ConfigError(f"{source}: method.name = {section['name']!r}; known: {', '.join(METHOD_CONFIGS)}")
    values = _over_defaults(kind, values)
    default = _with_missing(decode(kind, _fill_required(kind, values), source))
    return parse(
        kind,
        words,
        default=default,
        prog=prog,
        description=f"{(kind.__doc__ or '').strip()}\n\n{prog} [FILE.toml] [OPTIONS]: options beat the file.\n{note}",
        config=(tyro.conf.AvoidSubcommands, tyro.conf.HelptextFromCommentsOff),
    )


def parse(kind: type[OptionsT], words: Sequence[str], *, prog: str, **how: Any) -> OptionsT:
    """tyro's reading of `words` as `kind`, its boxed complaint made one line of a ConfigError."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(words), prog=prog, **how)
    except SystemExit as leaving:
        if not leaving.code:  # --help
            raise
        raise ConfigError(f"{_one_line(complaint.getvalue())}; see {prog} --help") from None


def _one_line(box: str) -> str:
    """The sections of tyro's box that say what is wrong, without the help texts that follow."""
    # drawn in ASCII where the encoding has no lines
    lines = [line.strip("│╭╮╰╯|+ ") for line in box.splitlines()]
    sections, current = [], []
    for line in [*lines[1:], "─"]:
        if line and set(line) <= {"─", "-"}:
            sections.append(" ".join(current))
            current = []
        else:
            current.append(line)
    told = [text for text in sections if text and not text.startswith(("For full helptext", "Argument helptext"))]
    return "; ".join(told)


def _over_defaults(kind: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    """A section of the file over the defaults that this command has for it, which may not be the section's own."""
    merged, by_method = dict(values), {}
    method = values.get("method")
    if isinstance(method, dict) and method.get("target") == "noise" and method.get("name") == "erasediff":
        by_method = default_sections(EraseDiffConfig(target="noise"))
    for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        section = merged.get(field.name)
        if field.name == "method" or not isinstance(section, dict):
            continue
        if field.name in by_method:
            merged[field.name] = as_dict(by_method[field.name]) | section
        elif field.default_factory is not dataclasses.MISSING:
            merged[field.name] = as_dict(field.default_factory()) | section
    return merged


def _with_none(word: str) -> str:
    """ "none", as a file has it, in tyro's spelling."""
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{None}" if value == NONE else word


def _named_method(words: list[str]) -> str | None:
    """--method.name's value, taken out of `words`: it decides which options there are."""
    for i, word in enumerate(words):
        if word == "--method.name" and i + 1 < len(words):
            del words[i]
            return words.pop(i)
        if word.startswith("--method.name="):
            return words.pop(i).partition("=")[2]
    return None


def _last_of(words: list[str], option: str) -> str | None:
    """The value an option has, the last one counting; it stays among the words."""
    found = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    found += [words[i + 1] for i, word in enumerate(words[:-1]) if word == option]
    return found[-1] if found else None


def _fill_required(kind: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    filled = dict(values)
    for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.name == "model" and isinstance(filled.get("model", {}), dict):
            filled["model"] = {"path": _LEFT_OUT} | filled.get("model", {})
        elif is_required:
            filled.setdefault(field.name, _LEFT_OUT)
    return filled


def _with_missing(settings: Any) -> Any:
    """What the file left out becomes an option that must be given."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value == _LEFT_OUT:
            changes[field.name] = tyro.MISSING
        elif dataclasses.is_dataclass(value):
            changes[field.name] = _with_missing(value)
    return dataclasses.replace(settings, **changes)
