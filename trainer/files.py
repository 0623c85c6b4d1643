"""Files that are there only when they are whole and on the disk, and errors that name their file. No torch here."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ConfigError

# what a file system without locks answers
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an OSError without a file's name, as a full disk raises it, gets that of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def alone(folder: Path, name: str = "", *, waits: bool = True) -> Iterator[None]:
    """Inside, no other process of this machine is inside for the same folder and name.

    waits: until the other one has left; else BlockingIOError. Where the file system has no locks, nothing is held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


def check_place(path: Path, option: str) -> None:
    """Raises ConfigError where one of the folders that `path` would lie in is a file."""
    there = next((folder for folder in path.parents if folder.exists()), None)
    if there is not None and not there.is_dir():
        raise ConfigError(f"{option} = '{path}': '{there}' is a file: name another folder")


def sha256_of(path: Path) -> str:
    """Of the file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a file and renames it into its place once it is on the disk; OSError names the path."""
    partial = path.with_name(path.name + ".partial")
    with naming(path):
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """The same for a value; it must be finite."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def open_up(path: Path) -> None:
    """Gives a file, or all files of a folder, a new file's permissions: safetensors writes for the owner alone."""
    # a new file shows them; asking for the umask would set it, for all threads
    probe = path.with_name(path.name + ".probe")
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for found in [path, *path.rglob("*")]:
        if found.is_file():
            found.chmod(mode)


def sync(path: Path) -> None:
    """Waits until what was written to a file, or a folder's list of names, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(number)
    finally:
        os.close(number)


def sync_tree(folder: Path) -> None:
    """`sync` of a folder and all that is in it."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)
