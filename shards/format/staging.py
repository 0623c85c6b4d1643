"""Datasets copied to a disk that is nearer: a node's own. Whoever opens the dataset's folder reads the copy.

The environment says where copies are, for a process and those it starts: the folder's name stays what runs and records
know it by.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path

from ..errors import DataError
from .manifest import INDEX_NAME, MANIFEST_NAME, read_manifest

VARIABLE = "ERASEDIFF_STAGED"
_CHUNK_BYTES = 1 << 20


def nearest(folder: Path) -> Path:
    """The copy of a dataset's folder that this process is to read, or the folder itself."""
    return Path(_copies().get(str(folder.absolute()), folder))


def nearest_shard(folder: Path, name: str) -> Path:
    """The file that this process is to read for a shard of `folder`: its copy, or that of a dataset it points into."""
    if str(folder.absolute()) not in _copies():
        file = Path(os.path.realpath(folder / name))
        for original, copy in _copies().items():
            if file.is_relative_to(top := os.path.realpath(original)):
                near = Path(copy) / file.relative_to(top)
                return near if near.exists() else file  # a split that was written in there since
    return nearest(folder) / name


def _copies() -> dict[str, str]:
    """By the absolute paths of the folders they are of."""
    return json.loads(os.environ.get(VARIABLE, "{}"))


def stage(folder: Path, place: Path) -> Path:
    """Copies a dataset into a folder of its own below `place`, verified by hash; whoever comes later finds it there.

    Processes of one machine may call it at once: one copies. Raises DataError for a file that is not what the dataset's
    manifest says, OSError where there is no room.
    """
    folder = folder.resolve()  # shards beside it are beside what a link names
    manifest = read_manifest(folder)
    place.mkdir(parents=True, exist_ok=True)
    # a split's shards may be those of the dataset it was cut from, beside its folder
    names = [INDEX_NAME, MANIFEST_NAME, *(shard.path for shard in manifest.shards)]
    top = os.path.commonpath([folder, *(Path(os.path.normpath(folder / name)).parent for name in names)])
    # two folders may hold the same split
    told = (folder / MANIFEST_NAME).read_bytes() + str(folder.relative_to(top)).encode()
    copy = place / f"{manifest.name}-{hashlib.sha256(told).hexdigest()[:16]}"
    inside = copy / folder.relative_to(top)
    with (place / f"{copy.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = {shard.path: (shard.bytes, shard.sha256) for shard in manifest.shards}
        files[INDEX_NAME] = ((folder / INDEX_NAME).stat().st_size, manifest.index_sha256)
        if copy.exists() and all(_size(inside / name) == size for name, (size, _) in files.items()):
            return inside
        shutil.rmtree(copy, ignore_errors=True)  # whoever tidies up there has taken files of it
        partial = copy.with_name(f"{copy.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # a copy that was interrupted
        needed, free = sum(size for size, _ in files.values()), shutil.disk_usage(place).free
        if needed > free:
            raise DataError(f"{place}: {folder} needs {needed:,} bytes, {free:,} are free: name another folder")
        for name, (_, expected) in files.items():
            target = partial / os.path.relpath(folder / name, top)
            target.parent.mkdir(parents=True, exist_ok=True)
            if _copy(folder / name, target) != expected:
                raise DataError(f"{folder / name} is not what {MANIFEST_NAME} says: copy or build it again")
        shutil.copyfile(folder / MANIFEST_NAME, partial / folder.relative_to(top) / MANIFEST_NAME)
        partial.rename(copy)
    return inside


def staged(folders: list[Path], place: Path) -> dict[str, str]:
    """Copies datasets; the environment in which their folders stand for the copies."""
    copies = {str(folder.absolute()): str(stage(folder, place)) for folder in folders}
    return {VARIABLE: json.dumps(_copies() | copies)}


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.exists() else None


def _copy(source: Path, target: Path) -> str:
    """SHA-256 (hex) of what was read and written."""
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(_CHUNK_BYTES):
            digest.update(chunk)
            write.write(chunk)
    return digest.hexdigest()
