"""Settings as a TOML file that explains itself: every key with its default, commented out, and what it means."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from typing import Any

import tomli_w

from .base import Settings
from .toml import as_dict, decode, over_defaults

_WIDTH = 110


def commented_toml(kind: type[Settings], chosen: dict[str, Any]) -> str:
    """The file of a command's settings: `chosen` stand as they are, all others as `#key = default`.

    chosen: at least what has no default, nested as in the file.
    """
    settings = decode(kind, over_defaults(kind, kind.decided(chosen, {})), "")
    lines = [f"# {line}" for line in textwrap.wrap(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0], _WIDTH)]
    lines += ["# Lines that begin with # and a key are defaults: take the # away to change them.", ""]
    return "\n".join([*lines, *_section(settings, chosen, "")]) + "\n"


def _section(settings: Any, chosen: dict[str, Any], prefix: str) -> list[str]:
    """A section's own keys, then the sections in it."""
    docs, plain = field_docs(type(settings)), as_dict(settings)
    lines: list[str] = []
    sections: list[str] = []
    for field in dataclasses.fields(settings):
        value, own = getattr(settings, field.name), chosen.get(field.name)
        about = [f"# {line}" for line in textwrap.wrap(docs.get(field.name, ""), _WIDTH)]
        if dataclasses.is_dataclass(value):
            inner = _section(value, own if isinstance(own, dict) else {}, f"{prefix}{field.name}.")
            sections += ["", *about, f"[{prefix}{field.name}]", *inner]
        elif value and isinstance(value, dict):  # tables come behind all keys
            sections += ["", *about, *tomli_w.dumps({field.name: plain[field.name]}).rstrip().splitlines()]
        else:
            mark = "" if field.name in chosen else "#"
            lines += [*about, f"{mark}{field.name} = {_written(plain[field.name])}"]
    return [*lines, *sections]


def _written(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return "{}" if value == {} else tomli_w.dumps({"_": value}).removeprefix("_ = ").rstrip()


def field_docs(kind: type) -> dict[str, str]:
    """What the string under each field says."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found
