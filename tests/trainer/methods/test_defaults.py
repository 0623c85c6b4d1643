"""What docs/methods.md says of options that nobody sets is what they are."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

from erasediff.trainer import methods
from erasediff.trainer.config import TargetedConfig
from erasediff.trainer.config.methods import method_kind

PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods.md"
WITH_TARGET = "those with a target, too"


def told() -> dict[str, dict[str, Any]]:
    """Values by option, by method."""
    rows = re.findall(r"^\| (?:`(\w+)`|([\w ,]+)) \| (`\w+ = .*`|–) \|$", PAGE.read_text(), re.MULTILINE)
    found = {}
    for name, words, cell in rows:
        pairs = [pair.partition(" = ") for pair in re.findall(r"`([^`]+)`", cell)]
        values = {key: None if value == "none" else tomllib.loads(f"x = {value}")["x"] for key, _, value in pairs}
        found[name or words] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
    return found


def test_the_page_has_every_methods_defaults() -> None:
    page = told()
    shared = page.pop(WITH_TARGET)
    ours = {path.stem for path in Path(str(methods.__file__)).parent.glob("[a-z]*.py")}
    assert set(page) == ours
    for name in ours:
        kind = method_kind(name)
        expected = (shared if issubclass(kind, TargetedConfig) else {}) | page[name] | {"name": name}
        assert dataclasses.asdict(kind(name)) == expected, name
