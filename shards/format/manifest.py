"""`dataset.json`: what a dataset folder holds."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from ..errors import DataError, is_unicode
from .images import MAX_PIXELS

FORMAT = "erasediff-shards-1"
MANIFEST_NAME = "dataset.json"
INDEX_NAME = "index.npy"
# what the index and numpy can count
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Positive = Annotated[int, Field(ge=1, lt=1 << 63)]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class ImageShape:
    """Pixels of every image, where all are alike."""

    height: Positive
    width: Positive
    channels: Positive


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Latents:
    """What an autoencoder makes of every image, stored beside it: fp32, mean and log-variance one after the other."""

    encoder_sha256: str
    """Of the autoencoder's encoding half."""
    shape: tuple[Positive, Positive, Positive]
    """[2 · channels, height, width]."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Shard:
    """One tar file."""

    path: str
    """Relative to the folder of `dataset.json`."""
    bytes: Count
    sha256: str
    num_samples: Count
    """Samples of this dataset in it."""
    num_excluded: Count
    """Other samples in the tar, which this dataset leaves out."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Manifest:
    """The whole of `dataset.json`."""

    format: Literal["erasediff-shards-1"]
    name: str
    classes: tuple[str, ...]
    num_samples: Positive
    image: ImageShape | None
    """None when images differ in size or channels, or there are none."""
    fingerprint: str
    """See `index.fingerprint`."""
    index_sha256: str
    shards: tuple[Shard, ...]
    latents: Latents | None = None
    """None: there are none."""


_ADAPTER = TypeAdapter(Manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `dataset.json`; call it last, since its presence makes the folder a dataset."""
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `dataset.json`; raises `DataError`."""
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise DataError(f"{folder}: no such dataset folder; make it with `erasediff shards build`")
    # opening a pipe or device could wait for ever
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a regular file; build the dataset again")
    try:
        manifest = _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        inside = [str(found.parent) for found in sorted(folder.glob(f"*/{MANIFEST_NAME}"))]
        advice = f"give {' or '.join(inside[:5])}" if inside else "make the dataset with `erasediff shards build`"
        raise DataError(f"{folder}: no {MANIFEST_NAME} in it; {advice}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); build the dataset again") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "content"
        raise DataError(f"{path}: {field}: {first['msg']}; build the dataset again") from error
    check_name(manifest.name, f"{path}: name")
    shape = manifest.image
    if shape is not None and (shape.height * shape.width > MAX_PIXELS or shape.channels not in (1, 3)):
        found = f"{shape.width} × {shape.height} pixels of {shape.channels} channel(s)"
        raise DataError(f"{path}: image: {found}; build the dataset again")
    return manifest


def check_name(name: str, where: str) -> None:
    """Raise `DataError` unless files can be called so: a name with slashes would lead out of the dataset's folder."""
    if not name or "/" in name or "\0" in name or not is_unicode(name):
        raise DataError(f"{where}: {name!r}; expected a name without slashes, in UTF-8")
