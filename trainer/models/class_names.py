"""Which class of a model is which class of the data: by name, or by position where the model has no names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...shards.dataset import Dataset
from ...shards.errors import shorten
from ..errors import ConfigError
from .lineage import LINEAGE_NAME, Forgotten, Lineage, forgotten_rows, read_lineage

# entries of the map that a line shows
_MAX_SHOWN = 20

Names = tuple[str | None, ...]


def names_of_model(
    explicit: Sequence[str],
    lineage: Lineage,
    index: dict[str, Any],
    *,
    num_classes: int,
    null_class: int | None,
    folder: Path,
) -> Names:
    """A name for each class, None for the null class and where none is known; empty: the model names none.

    `explicit` is model.classes, `index` the content of model_index.json: diffusers' `id2label` in it counts where
    erasediff.json says nothing. Raises ConfigError for names that are not those of so many classes.
    """
    if not num_classes:
        if explicit:
            raise ConfigError(
                f"model.classes names {len(explicit)} classes, and the model is unconditional: leave it out"
            )
        return ()
    if explicit:
        names = _named_by_hand(explicit, num_classes, null_class)
    elif lineage.classes:
        names = list(lineage.classes)
        if len(names) != num_classes:
            raise ConfigError(
                f"{folder / LINEAGE_NAME} names {len(names)} classes, the model has {num_classes}: put the model's own "
                "file back"
            )
    else:
        names = names_of_id2label(index.get("id2label"), num_classes)
    if null_class is not None:
        names[null_class] = None
    return tuple(names) if any(name is not None for name in names) else ()


def _named_by_hand(explicit: Sequence[str], num_classes: int, null_class: int | None) -> list[str | None]:
    names: list[str | None] = list(explicit)
    if len(names) == num_classes - 1:  # all but the null class, which is the last if nobody says otherwise
        names.insert(num_classes - 1 if null_class is None else null_class, None)
    if len(names) != num_classes:
        raise ConfigError(
            f"model.classes names {len(explicit)} classes, the model has {num_classes}, a null class among them if it "
            "has one: name each but that one, in the model's order"
        )
    return names


def names_of_id2label(id2label: object, num_classes: int) -> list[str | None]:
    """diffusers' names in model_index.json; None where there is none."""
    given = id2label if isinstance(id2label, dict) else {}
    found = [given.get(str(number)) for number in range(num_classes)]
    return [name if isinstance(name, str) else None for name in found]


def labels_of(dataset: Dataset, rows: np.ndarray | None = None) -> list[int]:
    """The labels its samples have, or those of `rows` (bool [N]), ascending."""
    return [int(label) for label in np.unique(dataset.labels if rows is None else dataset.labels[rows]) if label >= 0]


@dataclass(frozen=True)
class ClassMap:
    """The model's class of each class of the data."""

    labels: dict[str, int]
    """By the name in the data."""
    by_name: bool

    @property
    def is_as_expected(self) -> bool:
        """Whether names were compared and everything is where it would be anyway: the data's order is the model's."""
        return self.by_name and [*self.labels.values()] == [*range(len(self.labels))]

    def describe(self, first: Sequence[int] = ()) -> str:
        """A line's text, the model's classes `first` at its front."""
        pairs = sorted(self.labels.items(), key=lambda pair: pair[1] not in first)
        shown = ", ".join(f"{name} → {label}" for name, label in pairs[:_MAX_SHOWN])
        more = f", … ({len(pairs):,} classes)" if len(pairs) > _MAX_SHOWN else ""
        how = "" if self.by_name else " (by position, as they are: the model names none; model.classes would)"
        return f"{shown}{more}{how}"


def match_classes(
    data_classes: Sequence[str],
    used: Sequence[str],
    names: Names,
    *,
    num_classes: int,
    null_class: int | None,
    where: str,
) -> ClassMap:
    """Finds each class of the data among the model's; one without samples need not be there.

    used: the classes that have samples. Raises ConfigError, blaming `where`, for a class that the model does not name
    or that two names mean, and where the model names none and has another number of classes than the data.
    """
    if not names:
        # one less is all but the null class, where that is the last
        least = num_classes - 1 if null_class == num_classes - 1 else num_classes
        if not least <= len(data_classes) <= num_classes:
            known = (
                f"{num_classes}" if null_class is None else f"{num_classes}, its null class {null_class} among them,"
            )
            raise ConfigError(
                f"'{where}' has {len(data_classes)} classes ({shorten(data_classes)}), the model {known} "
                "without names: name the model's classes, in its order and as the data call them, in model.classes "
                f"(a list, or a file with a line for each){_null_class_hint(data_classes, num_classes, null_class)}"
            )
        return ClassMap({name: label for label, name in enumerate(data_classes)}, by_name=False)
    known = _by_name(names)
    labels = {name: known[name] for name in data_classes if name in known}
    unknown = [name for name in used if name not in known]
    if unknown:
        raise ConfigError(
            f"'{where}' has class {shorten(unknown)}, and the model's are {shorten(filter(None, names))}: name the "
            "model's classes, in its order and as the data call them, in model.classes (a list, or a file)"
        )
    twice = [label for label, count in Counter(labels.values()).items() if count > 1]
    if twice:
        both = [name for name, label in labels.items() if label == twice[0]]
        raise ConfigError(
            f"'{where}' has classes {' and '.join(both)}, which both are the model's {names[twice[0]]!r}: make them one"
        )
    return ClassMap(labels, by_name=True)


def _null_class_hint(data_classes: Sequence[str], num_classes: int, null_class: int | None) -> str:
    last = num_classes - 1
    if null_class is not None or len(data_classes) != last:
        return ""
    return f"; or, if its class {last} stands for 'no class', set model.null_class = {last}"


def _by_name(names: Names) -> dict[str, int]:
    """Indexes by each name that no other class has and, as diffusers reads "tench, Tinca tinca", by its parts alike."""
    known = [(name, label) for label, name in enumerate(names) if name is not None]
    parts = [(part.strip(), label) for name, label in known if "," in name for part in name.split(",")]
    whole, counts = Counter(name for name, _ in known), Counter(part for part, _ in parts)
    found = {part: label for part, label in parts if counts[part] == 1 and part and part not in whole}
    return found | {name: label for name, label in known if whole[name] == 1}


def rows_forgotten_by(model: Path, data: Dataset) -> np.ndarray:
    """bool [N]: samples of `data` that the model in a folder has forgotten, the data's classes found by name, prompts
    among the captions.

    Raises ConfigError for a folder without erasediff.json.
    """
    if not (model / LINEAGE_NAME).is_file():
        raise ConfigError(f"--model {model} holds no {LINEAGE_NAME}: what it has forgotten is not known; leave it out")
    lineage = read_lineage(model)
    known = _by_name(lineage.classes)
    by_name = [
        replace(one, classes={name: i for i, name in enumerate(data.classes) if _is_of(one, name, known.get(name))})
        for one in lineage.forgotten
    ]
    return forgotten_rows(by_name, data, lambda data: data.captions)


def _is_of(forgotten: Forgotten, name: str, label: int | None) -> bool:
    return name in forgotten.classes or label in forgotten.classes.values()
