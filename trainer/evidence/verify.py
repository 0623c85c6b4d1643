"""Whether a record is what was written: the chain of entries, the model that was published, its card.

Hashes show accidents and edits, not a forger who rewrites all of it: docs/record.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from ..files import sha256_of
from ..models.card import CARD_NAME
from .copies import SCRUB_NAME, WITHDRAWN_NAME
from .ledger import (
    ENTRIES_NAME,
    SUMS_NAME,
    Entry,
    Publication,
    Withdrawal,
    entry_of_card,
    entry_path,
    entry_paths,
    file_hashes,
    published,
    read_entry,
    read_sums,
    sums_text,
)
from .publication import card_of
from .record import RECORD_NAME, Record


@dataclass
class Findings:
    """Lines to say of a record."""

    holds: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    """Each names a file, what was found and what was expected."""
    unseen: list[str] = field(default_factory=list)
    """What is not here to be looked at."""


def verify(path: Path) -> Findings:
    """Looks at the records of an erasure's or a run's folder, or of the one that the file `path` lies in.

    Raises ConfigError where there are none.
    """
    folder = _folder_of(path)
    found = Findings()
    _verify(folder, found, seen=set())
    return found


def _folder_of(path: Path) -> Path:
    folder = path if path.is_dir() else path.parent
    if folder.name == ENTRIES_NAME:
        folder = folder.parent
    if not path.exists() or not (entry_paths(folder) or (folder / RECORD_NAME).exists()):
        raise ConfigError(f"'{path}': no records there; name an erasure's folder, or its {RECORD_NAME}")
    return folder


def _verify(folder: Path, found: Findings, seen: set[Path]) -> None:
    seen.add(folder.resolve())
    by_path = _entries(folder, found)
    records = [path for path, entry in by_path.items() if isinstance(entry, Record)]
    for newest in records[-1:]:
        copy = folder / RECORD_NAME
        if not copy.exists() or copy.read_bytes() != newest.read_bytes():
            found.differs.append(f"{copy}: is not {newest}, byte for byte")
    _model(folder, by_path, found)
    for entry in [entry for entry in by_path.values() if isinstance(entry, Record)][-1:]:
        _followed(entry, found, seen)


def _entries(folder: Path, found: Findings) -> dict[Path, Entry]:
    """Those that can be read, once each is held against its sum and the one before it."""
    paths, entries = entry_paths(folder), {}
    if not paths:
        found.differs.append(f"{folder / ENTRIES_NAME}: has no entries, and {RECORD_NAME} is a copy of one")
        return {}
    num_before = len(found.differs)
    try:
        sums, of_sums = read_sums(folder), folder / ENTRIES_NAME / SUMS_NAME
        if not of_sums.exists() or of_sums.read_bytes() != sums_text({p.name: sha256_of(p) for p in paths}).encode():
            found.differs.append(f"{of_sums}: is not what sha256sum makes of the entries")
    except ConfigError as error:
        sums = {}
        found.differs.append(str(error))
    before = None
    for number, path in enumerate(paths, start=1):
        digest = sha256_of(path)
        if path != entry_path(folder, number):
            found.differs.append(f"{path}: expected {entry_path(folder, number).name}: an entry is missing")
        if digest != sums.get(path.name):
            found.differs.append(
                f"{path}: SHA-256 is {digest}, {SUMS_NAME} has {sums.get(path.name, 'none of that name')}"
            )
        try:
            entry = read_entry(path)
        except ConfigError as error:
            found.differs.append(str(error))
        else:
            entries[path] = entry
            if entry.place.number != int(path.stem):
                found.differs.append(f"{path}: says of itself that it is entry {entry.place.number}")
            if entry.place.previous_sha256 != before:
                theirs = entry.place.previous_sha256
                found.differs.append(f"{path}: the entry before it has SHA-256 {before}, here it is {theirs}")
        before = digest
    found.differs += [
        f"{folder / ENTRIES_NAME / name}: is not there, {SUMS_NAME} has it"
        for name in sorted(sums.keys() - {path.name for path in paths})
    ]
    if len(found.differs) == num_before:
        found.holds.append(f"{folder / ENTRIES_NAME}: {len(paths)} entries")
    return entries


def _model(folder: Path, by_path: dict[Path, Entry], found: Findings) -> None:
    """The newest model that was published, whether it stands or was withdrawn."""
    entries = [*by_path.values()]
    publications = [(path, entry) for path, entry in by_path.items() if isinstance(entry, Publication)]
    if not publications:
        # the model/ of a run that was evaluated by itself is the scrub's own, which no entry publishes
        is_erasure = (folder / SCRUB_NAME).exists()
        if entry_of_card(folder / "model") is not None or (is_erasure and (folder / "model").exists()):
            found.differs.append(f"{folder / 'model'}: no entry published it")
        else:
            found.holds.append(f"{folder}: no model was published")
        return
    (path, entry), model = publications[-1], folder / "model"
    if published(entries) is None:
        model = folder / WITHDRAWN_NAME
        found.holds.append(f"{model}: was withdrawn by entry {_withdrawal(entries).place.number}")
        if (folder / "model").exists():
            found.differs.append(f"{folder / 'model'}: no entry published it since")
    if not model.is_dir():
        found.differs.append(f"{model}: is not there, {path} published it")
        return
    here = file_hashes(model, but=CARD_NAME)
    num_before = len(found.differs)
    for name in sorted(here.keys() | entry.files.keys()):
        ours, theirs = here.get(name, "not there"), entry.files.get(name, "no such file")
        if ours != theirs:
            found.differs.append(f"{model / name}: SHA-256 is {ours}, entry {entry.place.number} has {theirs}")
    if len(found.differs) == num_before:
        found.holds.append(
            f"{model}: {len(here)} files as entry {entry.place.number} published them: {entry.published}"
        )
    _card(model, path, entry, entries, found)


def _withdrawal(entries: list[Entry]) -> Withdrawal:
    return next(entry for entry in reversed(entries) if isinstance(entry, Withdrawal))


def _card(model: Path, published_by: Path, entry: Publication, entries: list[Entry], found: Findings) -> None:
    path = model / CARD_NAME
    record = next((one for one in entries if isinstance(one, Record) and one.place.number == entry.evaluation), None)
    if record is None:
        found.differs.append(f"{path}: entry {entry.evaluation}, which it rests on, is no evaluation that can be read")
        return
    try:
        card = str(card_of(model, entry, sha256_of(published_by), record))
        is_same = path.read_bytes() == card.encode()
    # whatever a changed file makes of a model: it is told, and the rest is looked at
    except Exception as error:
        found.differs.append(f"{path}: cannot be made again: {' '.join(str(error).split())}")
        return
    if is_same:
        found.holds.append(f"{path}: as it is made again from the entries")
    else:
        found.differs.append(f"{path}: is not the card that is made again from the entries")


def _followed(record: Record, found: Findings, seen: set[Path]) -> None:
    """The earlier request's records, where the model it begins with was published."""
    if record.follows is None:
        return
    path = Path(record.follows.path)
    if not path.exists():
        found.unseen.append(f"{path}: the earlier request's entry is not here, SHA-256 {record.follows.sha256}")
        return
    digest = sha256_of(path)
    if digest != record.follows.sha256:
        theirs = f"{record.place.number:04d}.json follows {record.follows.sha256}"
        found.differs.append(f"{path}: SHA-256 is {digest}, {theirs}")
    earlier = _folder_of(path)
    if earlier.resolve() not in seen:
        _verify(earlier, found, seen)
