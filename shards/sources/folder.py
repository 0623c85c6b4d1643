"""A folder or zip of `class/name.(png|jpg|jpeg|webp)`, like torchvision's ImageFolder."""

import os
import stat
import threading
import zipfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..errors import DataError
from ..format.index import IMAGE_EXTENSIONS
from ..format.limits import MAX_SAMPLE_BYTES
from .source import Entry, ListedSource, mixed, name_of

# what operating systems leave behind
_LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")
_EXPECTED = f"class/name.({'|'.join(IMAGE_EXTENSIONS)})"


@dataclass(frozen=True)
class File:
    """A file in a folder or zip."""

    path: str
    """Relative, with slashes; an empty class folder ends with one."""
    size_bytes: int
    modified_ns: int


def has_images(folder: Path) -> bool:
    """Whether an image lies in it, as a class's would."""
    return any(file.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS for file in folder.iterdir())


class _Classes(ListedSource):
    """Samples named by class; the subclasses know where the bytes are."""

    def __init__(self, path: Path, files: Iterable[File]) -> None:
        self.path = path
        self.name = name_of(path)
        by_class = _by_class(path, files)
        self.classes = tuple(sorted(by_class))
        super().__init__(mixed([e for label, name in enumerate(self.classes) for e in _entries(by_class[name], label)]))

    @abstractmethod
    def read(self, entry: Entry) -> bytes: ...


class ClassFolder(_Classes):
    """A folder on disk; links are followed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _walk(path))

    def read(self, entry: Entry) -> bytes:
        try:
            return (self.path / entry.location).read_bytes()
        except OSError as error:
            _raise_unreadable(error)


class ClassZip(_Classes):
    """A zip archive, read in place."""

    def __init__(self, path: Path) -> None:
        self._archive = _open_zip(path)
        self._lock = threading.Lock()
        super().__init__(path, _members(self._archive, path.stat().st_mtime_ns))

    def read(self, entry: Entry) -> bytes:
        try:
            # the archive's directory may lie about sizes
            with self._lock, self._archive.open(entry.location) as file:
                return file.read(MAX_SAMPLE_BYTES)
        # zipfile lets zlib.error, NotImplementedError (compression method), RuntimeError (password) through
        except Exception as error:
            raise DataError(f"{self.path}: {entry.location!r} cannot be read ({error}); make the zip again") from error


def _walk(root: Path) -> Iterator[File]:
    for directory, folders, names in os.walk(root, onerror=_raise_unreadable, followlinks=True):
        at = Path(directory).relative_to(root)
        if len(at.parts) == 1:
            yield File(f"{at.name}/", 0, 0)
        folders[:] = sorted(name for name in folders if not _is_litter(name))
        for name in sorted(names):
            path = Path(directory) / name
            state = _stat(path)
            yield File((at / name).as_posix(), state.st_size, state.st_mtime_ns)


def _is_litter(name: str) -> bool:
    return (name.startswith(".") and name != "..") or name in _LITTER


def _raise_unreadable(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}); remove or mend it") from None


def _stat(path: Path) -> os.stat_result:
    try:
        state = path.stat()
    except OSError as error:
        _raise_unreadable(error)
    # opening a pipe or device could wait for ever
    if not stat.S_ISREG(state.st_mode):
        raise DataError(f"{path}: not a regular file; remove it")
    return state


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:
        raise DataError(f"{path}: not a readable zip ({error}); make it again") from error


def _members(archive: zipfile.ZipFile, modified_ns: int) -> Iterator[File]:
    for info in sorted(archive.infolist(), key=lambda info: info.filename):
        yield File(info.filename, info.file_size, modified_ns)


def _by_class(root: Path, files: Iterable[File]) -> dict[str, list[File]]:
    classes: dict[str, list[File]] = {}
    for file in files:
        # strings: pathlib took a fifth of the time to build from a zip of small pictures
        parts = tuple(file.path.rstrip("/").split("/"))
        if any(map(_is_litter, parts)):
            continue
        if file.path.endswith("/"):
            classes.setdefault(parts[0], [])
            continue
        _check(root, file, parts)
        classes.setdefault(parts[0], []).append(file)
    if not classes:
        raise DataError(f"{root}: no images in it; expected {_EXPECTED}")
    for name in (name for name, found in classes.items() if not found):
        raise DataError(f"{root}: class {name!r} has no image; remove its folder or add images")
    return classes


def _check(root: Path, file: File, parts: tuple[str, ...]) -> None:
    if len(parts) != 2 or ".." in parts or "" in parts or "\\" in file.path:
        raise DataError(f"{root}: found {file.path!r}; expected {_EXPECTED}, one folder a class")
    if extension_of(file.path) not in IMAGE_EXTENSIONS:
        raise DataError(f"{root}: {file.path!r} is not an image ({', '.join(IMAGE_EXTENSIONS)}); remove it")
    if file.size_bytes > MAX_SAMPLE_BYTES:
        limit = f"{file.size_bytes:,} bytes, more than {MAX_SAMPLE_BYTES:,}"
        raise DataError(f"{root}: {file.path!r} has {limit}; downsize or remove it")


def _entries(files: list[File], label: int) -> Iterator[Entry]:
    for file in files:
        extension = extension_of(file.path)
        yield Entry(key_of(file.path), extension, file.size_bytes, file.path, label, modified_ns=file.modified_ns)


def extension_of(path: str) -> str:
    """Lower case, without the dot."""
    stem, _, extension = path.rpartition("/")[2].rpartition(".")
    return extension.lower() if stem else ""


def key_of(path: str) -> str:
    """A WebDataset key: the path without its extension and without any other dot, at which a key would end."""
    return path.removesuffix("." + path.rpartition(".")[2]).replace(".", "_")
