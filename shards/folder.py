"""A folder or zip of `class/name.(png|jpg|jpeg|webp)`, like torchvision's ImageFolder."""

import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from .errors import DataError, shorten
from .index import EXTENSIONS
from .source import Entry

MAX_SAMPLE_BYTES = 1 << 28
# what operating systems leave behind
_LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")


class Folder(ABC):
    """Samples named by class; `ClassFolder` and `ClassZip` know where the bytes are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem
        files_by_class = self._files_by_class()
        self.classes = tuple(sorted(files_by_class))
        self.entries = self._make_entries(files_by_class)

    @abstractmethod
    def files(self) -> Iterator[tuple[str, int]]:
        """Every file as (relative posix path, bytes); an empty class folder as (path with a final slash, 0)."""

    @abstractmethod
    def read(self, entry: Entry) -> bytes: ...

    def _make_entries(self, files_by_class: dict[str, list[tuple[str, int]]]) -> list[Entry]:
        entries: list[Entry] = []
        for label, name in enumerate(self.classes):
            files = files_by_class[name]
            if not files:
                raise DataError(f"{self.path}: class {name!r} has no image; remove its folder or add images")
            entries += [self._entry(file, size_bytes, label) for file, size_bytes in files]
        # neighbours in a shard should not be of one class: the stream shuffles within a window of shards only
        return sorted(entries, key=lambda entry: hashlib.sha256(entry.key.encode()).digest())

    def _files_by_class(self) -> dict[str, list[tuple[str, int]]]:
        classes: dict[str, list[tuple[str, int]]] = {}
        for file, size_bytes in self.files():
            parts = PurePosixPath(file).parts
            if any((part.startswith(".") and part != "..") or part in _LITTER for part in parts):
                continue
            if file.endswith("/"):
                classes.setdefault(parts[0], [])
                continue
            self._check(file, parts, size_bytes)
            classes.setdefault(parts[0], []).append((file, size_bytes))
        if not classes:
            raise DataError(f"{self.path}: no images in it; expected class/name.({'|'.join(EXTENSIONS)})")
        return classes

    def _check(self, file: str, parts: tuple[str, ...], size_bytes: int) -> None:
        if len(parts) != 2 or ".." in parts or "\\" in file:
            raise DataError(
                f"{self.path}: found {file!r}; expected class/name.({'|'.join(EXTENSIONS)}), one folder a class"
            )
        if _extension(file) not in EXTENSIONS:
            raise DataError(f"{self.path}: {file!r} is not an image ({shorten(EXTENSIONS)}); remove it")
        if size_bytes > MAX_SAMPLE_BYTES:
            raise DataError(
                f"{self.path}: {file!r} has {size_bytes:,} bytes, more than {MAX_SAMPLE_BYTES:,}; remove it"
            )

    def _entry(self, file: str, size_bytes: int, label: int) -> Entry:
        # WebDataset ends a key at the first dot
        key = str(PurePosixPath(file).with_suffix("")).replace(".", "_")
        return Entry(key, _extension(file), size_bytes, file, label)


class ClassFolder(Folder):
    """A folder on disk; links are followed."""

    def files(self) -> Iterator[tuple[str, int]]:
        for directory, folders, names in os.walk(self.path, followlinks=True):
            at = Path(directory).relative_to(self.path)
            if len(at.parts) == 1:
                yield f"{at.name}/", 0
            folders.sort()
            for name in sorted(names):
                yield (at / name).as_posix(), (Path(directory) / name).stat().st_size

    def read(self, entry: Entry) -> bytes:
        return (self.path / entry.location).read_bytes()


class ClassZip(Folder):
    """A zip archive, read in place."""

    def files(self) -> Iterator[tuple[str, int]]:
        for info in sorted(self._archive.infolist(), key=lambda info: info.filename):
            yield info.filename, info.file_size

    def read(self, entry: Entry) -> bytes:
        try:
            with self._archive.open(entry.location) as file:
                # the archive's directory may lie about sizes
                return file.read(MAX_SAMPLE_BYTES)
        # zipfile lets zlib.error, NotImplementedError (compression method), RuntimeError (password) through
        except Exception as error:
            raise DataError(f"{self.path}: {entry.location!r} cannot be read ({error}); make the zip again") from error

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except Exception as error:
            raise DataError(f"{self.path}: not a readable zip ({error}); make it again") from error


def _extension(file: str) -> str:
    return PurePosixPath(file).suffix.removeprefix(".").lower()
