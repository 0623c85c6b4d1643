"""What is found by its name: a file in a folder of ours, or an entry point of another package. No torch here."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType


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
    theirs = {found.name: found.module for found in entry_points(group=f"erasediff.{kind}")}
    ours = {name: place for name, place in sorted(ours.items()) if not name.startswith("_")}
    return ours | {name: place for name, place in sorted(theirs.items()) if name not in ours}
