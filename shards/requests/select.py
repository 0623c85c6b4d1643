"""Which samples of a dataset a request means."""

import fnmatch
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from ..dataset import Dataset
from ..errors import DataError, shorten
from .expression import parse_comparison
from .request import Request, Selector


def select(dataset: Dataset, request: Request) -> np.ndarray:
    """bool [N]: the samples that any selector selects; raises `DataError` for a selector that selects none."""
    selected = np.zeros(len(dataset), dtype=bool)
    for number, selector in enumerate(request.selectors, 1):
        chosen = _select(dataset, selector, request.name)
        if not chosen.any():
            raise DataError(
                f"{request.name}: selector {number} selects no sample of {dataset.path}; correct or remove it"
            )
        selected |= chosen
    return selected


def _select(dataset: Dataset, selector: Selector, name: str) -> np.ndarray:
    chosen = np.ones(len(dataset), dtype=bool)
    if selector.keys:
        chosen &= _with_keys(dataset, selector.keys, name)
    if selector.labels:
        chosen &= select_labels(dataset, selector.labels, name)
    if selector.captions:
        chosen &= _with_captions(dataset, selector.captions, chosen)
    if selector.metadata:
        chosen &= _with_metadata(dataset, selector.metadata, chosen, name)
    return chosen


def select_labels(dataset: Dataset, labels: Sequence[str | int], name: str) -> np.ndarray:
    """bool [N]: samples of these classes, each a class name or, where no name is a number, a position.

    `name` is the option or file that messages blame. Raises `DataError` for a class that is unknown or has no sample.
    """
    selected = np.zeros(len(dataset), dtype=bool)
    for label in labels:
        matches = dataset.labels == _class_number(dataset, str(label), name)
        if not matches.any():
            raise DataError(f"{name}: label {label}: no sample of {dataset.path} has it; classes: {_classes(dataset)}")
        selected |= matches
    return selected


def _class_number(dataset: Dataset, label: str, name: str) -> int:
    if label in dataset.classes:
        return dataset.classes.index(label)
    alike = [number for number, known in enumerate(dataset.classes) if _composed(known) == _composed(label)]
    if len(alike) == 1:
        return alike[0]
    # with numbers as names, a position would be taken for a name
    positions = [str(position) for position in range(len(dataset.classes))]
    if label in positions and not any(known.isdecimal() for known in dataset.classes):
        return int(label)
    raise DataError(f"{name}: label {label}: no such class in {dataset.path}; classes: {_classes(dataset)}")


def _classes(dataset: Dataset) -> str:
    return shorten(dataset.classes, limit=20) or "none"


def _with_keys(dataset: Dataset, keys: Sequence[str], name: str) -> np.ndarray:
    wanted = np.array(sorted({key.encode() for key in keys}))
    chosen = np.isin(dataset.index["key"], wanted)
    missing = np.setdiff1d(wanted, dataset.index["key"][chosen])
    if len(missing):
        names = shorten(key.decode() for key in missing.tolist())
        raise DataError(f"{name}: keys that {dataset.path} does not have: {names}; correct or remove them")
    return chosen


def _with_captions(dataset: Dataset, patterns: Sequence[str], among: np.ndarray) -> np.ndarray:
    expressions = [
        re.compile(fnmatch.translate(_composed(pattern).replace("[", "[[]")), re.IGNORECASE) for pattern in patterns
    ]
    chosen = np.zeros(len(dataset), dtype=bool)
    for i in np.flatnonzero(among & (dataset.index["text_length"] > 0)).tolist():
        text = _composed(dataset.text(i))
        chosen[i] = any(expression.match(text) for expression in expressions)
    return chosen


def _composed(text: str) -> str:
    """One spelling of what Unicode can spell in several ways, such as é; as one line, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _with_metadata(dataset: Dataset, texts: Sequence[str], among: np.ndarray, name: str) -> np.ndarray:
    try:
        comparisons = [parse_comparison(text) for text in texts]
    except DataError as error:
        raise DataError(f"{name}: metadata: {error}") from None
    chosen = np.zeros(len(dataset), dtype=bool)
    for i in np.flatnonzero(among & (dataset.index["meta_length"] > 0)).tolist():
        metadata = dataset.metadata(i)
        chosen[i] = all(comparison.holds(metadata) for comparison in comparisons)
    return chosen
