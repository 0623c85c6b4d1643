"""Deletes the copies that an erasure has made of what was forgotten, and says so in its records."""

from __future__ import annotations

import dataclasses
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..files import write_text
from .copies import PUBLISHED_NAME, REPORT_NAME, published_copy, reach_of
from .ledger import Deletion, Publication, append, published, read_entries
from .record import Copy, Reach, Record, schema_name

# as `report_pictures` writes a strip of a forgotten class
_FORGOTTEN_PICTURE = re.compile(r'<img class="gone"[^>]*>')


@dataclass(frozen=True)
class Known:
    """A copy that the records know of, as it is now."""

    copy: Copy
    place: Path
    """Where it lies now, wherever it was when it was written down."""

    is_published: bool
    """Whether it is the erasure's model/."""

    @property
    def is_ours(self) -> bool:
        """Whether it may be deleted: what is published stays."""
        return self.copy.reach == "not reached" and not self.is_published

    @property
    def is_there(self) -> bool:
        return self.copy.is_with_a_service or self.place.exists()

    def __str__(self) -> str:
        return f"{self.copy.path if self.copy.is_with_a_service else self.place}: {self.copy.holds}"


def known(output: Path) -> list[Known]:
    """The copies that any entry lists, each as the newest that does has it.

    Raises ConfigError where an entry cannot be read.
    """
    found: dict[Path, Known] = {}
    paths: dict[str, str] = {}
    folders: list[Path] = []
    model = (output / PUBLISHED_NAME).resolve()
    for entry in read_entries(output):
        if isinstance(entry, Publication) and model in found:
            # an evaluation before, which withdrew what was there, said otherwise
            was = found[model]
            found[model] = dataclasses.replace(was, copy=published_copy(was.copy.path, entry.verdict))
        if isinstance(entry, Record):
            paths |= entry.absolute_paths
            folders.append(Path(paths[entry.models["scrubbed"].path]).parents[1])
        if isinstance(entry, Record | Deletion):
            for copy in entry.copies:
                was = Path(paths.get(copy.path, copy.path))
                place = was if copy.reach == "not ours" else _place(was, folders, output)
                found[place.resolve()] = Known(copy, place, place.resolve() == model)
    return [*found.values()]


def _place(was: Path, folders: list[Path], output: Path) -> Path:
    """An erasure's folder may have been moved since; what lies in it was moved with it. folders: where it has lain."""
    return next((output / was.relative_to(then) for then in folders if was.is_relative_to(then)), was)


def planned(output: Path) -> list[Known]:
    """Those that would be deleted."""
    return [one for one in known(output) if one.is_ours and one.is_there]


def delete_copies(output: Path) -> list[str]:
    """Deletes what is this erasure's own; adds an entry with what is left. A line for each copy. Rank 0 calls it.

    Nothing is deleted where no published model stands. An entry is there before the first copy goes: an erasure of
    which some are gone is known for one, wherever a kill came.
    """
    standing = published(read_entries(output))
    if standing is None:
        return ["nothing is deleted: no model is published"]
    found = known(output)

    def add(copies: list[Copy], reach: Reach) -> None:
        append(
            output,
            lambda place: Deletion(schema=schema_name(), place=place, kind="deletion", copies=copies, reach=reach),
        )

    if any(one.is_ours and one.is_there for one in found):
        add([one.copy for one in found], "partial")
    lines, now = [], []
    for one in found:
        copy = one.copy
        if one.is_ours and one.is_there:
            _delete(one.place, output)
            lines.append(f"deleted      {one}")
            copy = dataclasses.replace(copy, holds=f"{copy.holds}: deleted", reach="reached")
        elif copy.reach != "reached" and not one.is_there:
            copy = dataclasses.replace(copy, holds=f"{copy.holds}: not there any more", reach="reached")
            lines.append(f"not there    {one}")
        elif copy.reach != "reached":
            lines.append(f"{copy.reach:<12} {one}")
        now.append(copy)
    reach = reach_of(now) if standing.verdict == "shown" else "partial"
    if now != [one.copy for one in found]:
        add(now, reach)
    return [*lines, f"erasure      {reach}"]


def _delete(path: Path, output: Path) -> None:
    """What lies in the erasure's own folder, and of the report only pictures of the forgotten."""
    assert path.resolve().is_relative_to(output.resolve()) and path.resolve() != output.resolve()
    if path.name == REPORT_NAME:
        text = path.read_text(encoding="utf-8")
        write_text(path, _FORGOTTEN_PICTURE.sub("<span>deleted</span>", text))
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
