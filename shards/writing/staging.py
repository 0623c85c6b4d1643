"""All or nothing: work under a temporary name, rename at the end; what a killed run finished is found again."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError

_STAMP_NAME = "stamp"


@contextlib.contextmanager
def staged(output: Path, stamp: str) -> Iterator[Path]:
    """A folder beside `output` that becomes `output` when the block ends well, and is removed when it fails.

    After a kill (or Ctrl-C) the folder stays, under its temporary name, so that no reader takes it for whole; the next
    run with an equal `stamp` gets it back with its files, one with another stamp starts afresh. Raises `DataError`.
    """
    check_absent(output)
    partial = output.parent / f".{output.name}.partial"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # beside the folder: within it, whoever comes while it is renamed would begin another
        with _locked(output.parent / f".{output.name}.lock", output):
            check_absent(output)
            partial.mkdir(exist_ok=True)
            _prepare(partial, stamp)
            try:
                yield partial
            except Exception:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            for path in (partial, *partial.rglob("*")):
                if path.suffix != ".tar":  # those are there already
                    sync(path)
            (partial / _STAMP_NAME).unlink()
            partial.rename(output)
            sync(output.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise DataError(f"{output}: cannot be written ({error})") from error


def check_absent(output: Path) -> None:
    """Raise `DataError` if there is something at `output`."""
    # a link that leads nowhere is something, too
    if os.path.lexists(output):
        raise DataError(f"{output}: exists already; choose another output or remove it")


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path, output: Path) -> Iterator[None]:
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                told = f"{output}: another process is writing it; wait for it, or choose another output"
                raise DataError(told) from None
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                continue  # whoever had it has removed it meanwhile
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _prepare(partial: Path, stamp: str) -> None:
    file = partial / _STAMP_NAME
    if file.exists() and file.read_text(encoding="utf-8") == stamp:
        return
    for leftover in partial.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    file.write_text(stamp, encoding="utf-8")
