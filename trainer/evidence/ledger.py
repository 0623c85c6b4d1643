"""The chain of what happened to an erasure: evaluations, publications, withdrawals, deletions of copies.

    FOLDER/records/0001.json     an entry: it names the SHA-256 of the file before it, and never changes
    FOLDER/records/SHA256SUMS    a line for each, as `sha256sum -c` reads it
    FOLDER/record.json           the newest evaluation, byte for byte

What is added says something else of the same erasure; what was said before stays. FOLDER is an erasure's, or the run
folder of a scrub that was evaluated by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter

from ..errors import ConfigError
from ..files import alone, sha256_of, write_text
from ..models.card import CARD_NAME
from .record import (
    RECORD_NAME,
    Copy,
    Place,
    Reach,
    Record,
    Strict,
    decode_values,
    read_record,
    read_values,
    record_values,
)
from .thresholds import Overall

ENTRIES_NAME = "records"
SUMS_NAME = "SHA256SUMS"
_IN_A_CARD = re.compile(rf"\(({ENTRIES_NAME}/\d+\.json), SHA-256 ([0-9a-f]{{64}})\)")


@dataclass(frozen=True)
class Publication(Strict):
    """A model was published; the card in its folder names this entry by its SHA-256."""

    schema: str
    place: Place
    kind: Literal["publication"]
    request: str
    """Its id."""
    evaluation: int
    """The entry it rests on."""
    published: Literal["scrubbed", "retrained"]
    verdict: Overall
    """On that model."""
    model: str
    """Where to, an absolute path."""
    files: dict[str, str]
    """SHA-256 of each file of the model by its path in the folder; but for the card, README.md."""


@dataclass(frozen=True)
class Withdrawal(Strict):
    """A published model was withdrawn: a later evaluation says otherwise."""

    schema: str
    place: Place
    kind: Literal["withdrawal"]
    publication: int
    """The entry that published it."""
    evaluation: int
    """The one that says otherwise."""
    model: str
    """Where it is kept, an absolute path."""


@dataclass(frozen=True)
class Deletion(Strict):
    """Copies were deleted, or looked for again."""

    schema: str
    place: Place
    kind: Literal["deletion"]
    copies: list[Copy]
    """All that the entries before know of, as they are now."""
    reach: Reach


Entry = Record | Publication | Withdrawal | Deletion
EntryT = TypeVar("EntryT", Record, Publication, Withdrawal, Deletion)
_ADAPTERS = {
    "publication": TypeAdapter(Publication),
    "withdrawal": TypeAdapter(Withdrawal),
    "deletion": TypeAdapter(Deletion),
}


def entry_path(folder: Path, number: int) -> Path:
    return folder / ENTRIES_NAME / f"{number:04d}.json"


def entry_paths(folder: Path) -> list[Path]:
    """The entries, the oldest first."""
    paths = (path for path in (folder / ENTRIES_NAME).glob("*.json") if path.stem.isdigit())
    return sorted(paths, key=lambda path: int(path.stem))


def read_entry(path: Path) -> Entry:
    """Raises ConfigError for what is none of this schema."""
    values = read_values(path)
    adapter = _ADAPTERS.get(str(values.get("kind")))
    return decode_values(values, path) if adapter is None else decode_values(values, path, adapter)


def read_entries(folder: Path) -> list[Entry]:
    """All of them, the oldest first. Raises ConfigError where one cannot be read."""
    return [read_entry(path) for path in entry_paths(folder)]


def published(entries: list[Entry]) -> Publication | None:
    """The publication that stands."""
    withdrawn = {entry.publication for entry in entries if isinstance(entry, Withdrawal)}
    publications = [entry for entry in entries if isinstance(entry, Publication)]
    last = publications[-1] if publications else None
    return None if last is None or last.place.number in withdrawn else last


def file_hashes(folder: Path, *, but: str) -> dict[str, str]:
    """SHA-256 of each file by its path in the folder, but for one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: sha256_of(path) for name, path in names.items() if name != but}


def read_sums(folder: Path) -> dict[str, str]:
    """What SHA256SUMS says of each entry, by its file's name; nothing where it is not there."""
    path = folder / ENTRIES_NAME / SUMS_NAME
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def sums_text(sums: dict[str, str]) -> str:
    """SHA256SUMS, whole."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def next_place(folder: Path) -> Place:
    """Where the next entry stands. Raises ConfigError where the last one is not what it was when it was written."""
    paths = entry_paths(folder)
    if not paths:
        _refuse_alone(folder / RECORD_NAME)
        return Place.of(1, None)
    last, digest = paths[-1], sha256_of(paths[-1])
    if read_sums(folder).get(last.name, digest) != digest:
        raise ConfigError(
            f"{last} was changed since it was written: put it back (`erasediff verify-record {folder}` says more), or "
            "choose another output"
        )
    return Place.of(int(last.stem) + 1, digest)


def _refuse_alone(path: Path) -> None:
    """Raises ConfigError for a record that the next one would replace."""
    if path.exists():
        read_record(path)  # of an older erasediff: refused
        raise ConfigError(f"{path} has no entries in {path.with_name(ENTRIES_NAME)}: put them back, or remove it")


def append(folder: Path, make: Callable[[Place], EntryT]) -> EntryT:
    """Adds the entry that `make` makes for its place; it is there whole or not at all. Rank 0 calls it."""
    with alone(folder / ENTRIES_NAME):
        place = next_place(folder)
        entry = make(place)
        values = record_values(entry) if isinstance(entry, Record) else asdict(entry)
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_text(entry_path(folder, place.number), text)
        # of the one before, too, where a kill came in between
        sums = {path.name: sha256_of(path) for path in entry_paths(folder)[-2:]} | read_sums(folder)
        write_text(folder / ENTRIES_NAME / SUMS_NAME, sums_text(sums))
        show_newest(folder)
    return entry


def show_newest(folder: Path) -> None:
    """Makes record.json the newest evaluation's, which a kill may have kept it from."""
    for path in reversed(entry_paths(folder)):
        text = path.read_text(encoding="utf-8")
        if json.loads(text).get("kind") == "evaluation":
            shown = folder / RECORD_NAME
            if not shown.exists() or shown.read_text(encoding="utf-8") != text:
                write_text(shown, text)
            return


def named_in_card(number: int, digest: str) -> str:
    """How a card names the entry that published its model."""
    return f"{ENTRIES_NAME}/{number:04d}.json, SHA-256 {digest}"


def entry_of_card(model: Path) -> tuple[Path, str] | None:
    """(the entry that published a model, its SHA-256), as the card in the model's folder names them; None: none."""
    try:
        found = _IN_A_CARD.search((model / CARD_NAME).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return None if found is None else (model.resolve().parent / found[1], found[2])
