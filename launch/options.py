"""Options from a TOML file and the command line; the command line wins."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import io
import os
import re
import typing
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from ..trainer.config import Settings
from ..trainer.config.toml import NONE, check_ranges, decode, over_defaults, read_toml
from ..trainer.errors import ConfigError

SettingsT = TypeVar("SettingsT", bound=Settings)
OptionsT = TypeVar("OptionsT")

# what --help says of what commands share
DRY_RUN = "--dry-run prints the resolved settings and what would happen, and stops."
METHODS = "--method.name {} chooses the method, and with it the method options below."

# stands for a required key that the file leaves to the command line
_LEFT_OUT = "\0left to the command line"


def read_settings(
    kind: type[SettingsT], words: Sequence[str], *, prog: str, note: str = "", usage: str = "[FILE.toml] [OPTIONS]"
) -> SettingsT:
    """`kind` from [FILE.toml] OPTION…: what the file leaves out has its default, what an option names is the option's.

    `usage` and `note` are what --help prints before the options.

    Raises ConfigError for the file and for the options, leaves through SystemExit for --help.
    """
    words = [_with_none(word) for word in words]
    values: dict[str, Any] = {}
    source = "the command line"
    if words and not words[0].startswith("-"):
        source = words.pop(0)
        values = read_toml(Path(source))
    chosen = {key: word for key in kind.deciding if (word := _last_of(words, f"--{key}")) is not None}
    try:
        values = kind.decided(values, chosen)
        values = over_defaults(kind, values)
    except (ConfigError, ValueError, TypeError) as error:
        raise ConfigError(f"{source}: {error}") from None
    default = _with_missing(decode(kind, _fill_required(kind, values), source))
    settings = parse(
        kind,
        words,
        default=default,
        prog=prog,
        description=f"{inspect.cleandoc(kind.__doc__ or '')}\n\n{prog} {usage}: options beat the file.\n{note}",
        config=(tyro.conf.AvoidSubcommands, tyro.conf.HelptextFromCommentsOff),
    )
    try:
        check_ranges(settings)
    except ConfigError as error:
        raise ConfigError(f"{error}; see {prog} --help") from None
    return settings


def parse(kind: type[OptionsT], words: Sequence[str], *, prog: str, **how: Any) -> OptionsT:
    """tyro's reading of `words` as `kind`, its boxed complaint made one line of a ConfigError."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(words), prog=prog, **how)
    except SystemExit as leaving:
        if not leaving.code:  # --help
            raise
        told = "; ".join(_told(complaint.getvalue(), but_unknown="return_unknown_args" in how))
        raise ConfigError(f"{told}{_meant(told, how.get('default', kind))}; see {prog} --help") from None


def _told(box: str, *, but_unknown: bool) -> list[str]:
    """The sections of tyro's box that say what is wrong, without the help texts that follow; but_unknown: nor what
    another is to read, which tyro complains of as soon as anything else is wrong."""
    # drawn in ASCII where the encoding has no lines
    lines = [line.strip("│╭╮╰╯|+ ") for line in box.splitlines()]
    sections, current = [], []
    for line in [*lines[1:], "─"]:
        if line and set(line) <= {"─", "-"}:
            sections.append(" ".join(current))
            current = []
        else:
            current.append(line)
    left_out = ("For full helptext", "Argument helptext", "Perhaps you meant")  # the last with all of its help text
    if but_unknown:
        left_out += ("Unrecognized options",)
    return [text for text in sections if text and not text.startswith(left_out)]


def _meant(complaint: str, settings: Any) -> str:
    """The option nearest to the first that is unknown, if one is near. settings: an instance, or a class of options."""
    unknown = re.search(r"Unrecognized options: (--(?:[^\s,=]+\.)?)([^\s,=.]+)", complaint)
    if unknown is None:
        return ""
    section, last = unknown[1], unknown[2].removeprefix("--")
    names = _option_names(settings)
    # whatever its section, which is what is often mistaken; the one that was given if it has such an option
    by_last: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_last[name.rpartition(".")[2].removeprefix("--")].append(name)
    close = difflib.get_close_matches(last, by_last, n=1, cutoff=0.7)
    if not close:
        return ""
    own = f"{section}{close[0]}"
    return f"; did you mean {own if own in names else ' or '.join(by_last[close[0]])}?"


def _option_names(settings: Any, prefix: str = "--") -> list[str]:
    names: list[str] = []
    for field in dataclasses.fields(settings):
        name, value = prefix + field.name.replace("_", "-"), getattr(settings, field.name, None)
        names += _option_names(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
    return names


def without_flag(words: Sequence[str], flag: str) -> tuple[list[str], bool]:
    """The words without a flag that the command itself takes, and whether it was there."""
    return [word for word in words if word != flag], flag in words


def is_alone() -> bool:
    """Whether this is no rank of several: what is wrong on one machine must end all of those, together."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def check_datasets(folders: Sequence[str]) -> None:
    """Raises DataError for what is no dataset: at once, where the run itself would first import torch."""
    if not is_alone():
        return
    from ..shards.format.manifest import read_manifest

    for folder in folders:
        read_manifest(Path(folder))


def print_once(text: str) -> None:
    """Where a launcher runs the command on several ranks: on the first."""
    if os.environ.get("RANK", "0") == "0":
        print(text)


def _with_none(word: str) -> str:
    """ "none", as a file has it, in tyro's spelling."""
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{None}" if value == NONE else word


def _last_of(words: list[str], option: str) -> str | None:
    """The value an option has, the last one counting; it stays among the words."""
    found = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    found += [words[i + 1] for i, word in enumerate(words[:-1]) if word == option]
    return found[-1] if found else None


def _fill_required(kind: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    """A mark for every required key that is not there, those of required sections too."""
    filled, hints = dict(values), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING:
            continue
        section = filled.get(field.name, {})
        if dataclasses.is_dataclass(hints[field.name]) and isinstance(section, dict):
            filled[field.name] = _fill_required(hints[field.name], section)
        else:
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
