"""`dataset.json`: what a dataset folder holds."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from .errors import DataError

FORMAT = "erasediff-shards-1"
MANIFEST_NAME = "dataset.json"
INDEX_NAME = "index.npy"


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class ImageShape:
    """Pixels of every image, where all are alike."""

    height: int
    width: int
    channels: int


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Shard:
    """One tar file."""

    path: str
    """Relative to the folder of `dataset.json`."""
    bytes: int
    sha256: str
    num_samples: int
    """Samples of this dataset in it."""
    num_excluded: int
    """Other samples in the tar, which this dataset leaves out."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Manifest:
    """The whole of `dataset.json`."""

    format: Literal["erasediff-shards-1"]
    name: str
    classes: tuple[str, ...]
    num_samples: int
    image: ImageShape | None
    """None when images differ in size or channels, or there are none."""
    fingerprint: str
    """See `index.fingerprint`."""
    index_sha256: str
    shards: tuple[Shard, ...]


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
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{folder}: no {MANIFEST_NAME} in it; make the dataset with `erasediff shards build`") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "content"
        raise DataError(f"{path}: {field}: {first['msg']}; build the dataset again") from error
