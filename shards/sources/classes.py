"""Class names given by hand: which there are, and in which order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .. import strict_json
from ..errors import DataError, is_unicode, shorten
from ..format.index import NO_LABEL
from .source import Entry, Source


def read_class_names(words: Sequence[str], option: str) -> tuple[str, ...]:
    """The names themselves or, for one word that is a file, those in it: a line each, or a JSON list.

    A JSON object from number to name, as `id2label` has it, is read as a list. `option` is what messages blame. Raises
    `DataError` for a file that holds something else, and for an empty or repeated name.
    """
    names = _from_file(Path(words[0]), option) if len(words) == 1 and Path(words[0]).is_file() else list(words)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{option}: {shorten(twice)} given twice; name each class once")
    if not all(name and is_unicode(name) for name in names):
        raise DataError(f"{option}: an empty name, or one that is not UTF-8; name every class")
    return tuple(names)


def _from_file(path: Path, option: str) -> list[str]:
    where = f"{option} = '{path}'"
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return [line.strip() for line in text.rstrip().splitlines()]
        values = strict_json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot be read ({error}); give a line for each class, or a JSON list") from None
    if isinstance(values, dict):
        missing = [number for number in range(len(values)) if str(number) not in values]
        if missing:
            raise DataError(f"{where}: {len(values)} classes, and none of number {missing[0]}; number them from 0")
        values = [values[str(number)] for number in range(len(values))]
    if not isinstance(values, list) or not all(isinstance(name, str) for name in values):
        raise DataError(f"{where}: not a list of names; give a line for each class, or a JSON list")
    return values


class Reordered:
    """A source whose classes are `classes`, in that order, instead of its own; some may have no sample."""

    def __init__(self, source: Source, classes: tuple[str, ...]) -> None:
        unknown = [name for name in source.classes if name not in classes]
        if unknown:
            raise DataError(f"classes: {source.name} has {shorten(unknown)}, which is not among them; add it")
        self._source = source
        self._labels = [classes.index(name) for name in source.classes]
        self.name = source.name
        self.classes = classes
        self.sizes_bytes = source.sizes_bytes

    def stamp(self) -> str:
        return f"{self._source.stamp()} {self.classes!r}"

    def entry(self, i: int) -> Entry:
        entry = self._source.entry(i)
        return entry if entry.label == NO_LABEL else replace(entry, label=self._labels[entry.label])

    def read(self, entry: Entry) -> bytes:
        return self._source.read(entry)


def check_numbers(index: np.ndarray, classes: tuple[str, ...], name: str) -> None:
    """Raise `DataError` where a sample has a class number that has no name."""
    highest = int(index["label"].max())
    if highest >= len(classes):
        raise DataError(f"classes: {len(classes)} names, and {name} has a sample of number {highest}; name every class")
