"""What is found by its name: a file in a folder of ours, or an entry point of another package. No torch here."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType

from .errors import ConfigError


@cache
def names(kind: str) -> tuple[str, ...]:
    """Of all files in `trainer/<kind>/` and all entry points of the group `erasediff.<kind>`, ours first.

    kind: the folder's path with dots, such as "methods". Files whose name begins with _ are not meant.
    """
    return tuple(_places(kind))


def load(kind: str, name: str) -> ModuleType:
    """The module behind a name that `names` has."""
    return importlib.import_module(_places(kind)[name])


@cache
def _places(kind: str) -> dict[str, str]:
    package = importlib.import_module(f"..{kind}", __name__)
    ours = {found.name: f"{package.__name__}.{found.name}" for found in pkgutil.iter_modules(package.__path__)}
    ours = {name: place for name, place in sorted(ours.items()) if not name.startswith("_")}
    theirs = {found.name: found.module for found in entry_points(group=f"erasediff.{kind}")}
    if twice := sorted(ours.keys() & theirs.keys()):
        raise ConfigError(f"{theirs[twice[0]]} is named {twice[0]!r} in erasediff.{kind}, as one of ours is: rename it")
    return ours | dict(sorted(theirs.items()))
