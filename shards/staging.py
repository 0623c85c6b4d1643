"""All or nothing: work under a temporary name, rename at the end."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import DataError


@contextlib.contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A fresh folder beside `output` that becomes `output` when the block ends well, and is removed when it fails.

    A folder left by a killed process has the temporary name, so that no reader takes it for whole.
    """
    if output.exists():
        raise DataError(f"{output}: exists already; choose another output or remove it")
    partial = output.parent / f".{output.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(output)
        _sync_folder(output.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise DataError(f"{output}: cannot be written ({error})") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
