"""Source → shards, index and `dataset.json`."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..dataset import Dataset
from ..errors import DataError, shorten
from ..format.manifest import MANIFEST_NAME, Latents, check_name
from ..sources.classes import Reordered, read_class_names
from ..sources.digits import Digits
from ..sources.digits_in_ink import DigitsInInk
from ..sources.folder import ClassFolder, ClassZip, has_images
from ..sources.source import Source
from ..sources.table import TABLE_SUFFIXES, Table
from .assemble import assemble
from .in_place import TarSource, index_in_place, tars_in
from .jobs import Progress, StopFlag, resolve_num_workers
from .parts import Part
from .staging import check_absent, staged
from .write_shard import plan_shards, write_shard

DEFAULT_MAX_SHARD_SAMPLES = 10_000
DEFAULT_MAX_SHARD_BYTES = 1 << 30


def build(
    source: str | Path | Source | TarSource,
    output: str | Path,
    *,
    name: str | None = None,
    classes: Sequence[str] = (),
    max_shard_samples: int = DEFAULT_MAX_SHARD_SAMPLES,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Make the dataset folder `output` from `source`; see `open_source` for what that can be.

    classes: names in the order in which labels count them, of classes without a sample too, as a model knows them; none
    given: those of the source, sorted. Tars have numbers, whose names these are.

    Content is stored as it is, every sample decoded once so that a broken one is found here; existing tars are indexed
    where they are. The same input gives the same bytes, on any number of workers (threads; None for one a CPU). After
    an error or a kill there is no `output`; after a kill the same call continues with the shards not done yet. Raises
    `DataError`.
    """
    num_workers = resolve_num_workers(num_workers)
    plan = plan_build(source, output, name, classes, max_shard_samples, max_shard_bytes)
    if isinstance(plan.source, TarSource):
        return index_in_place(
            plan.source,
            Path(output),
            name=plan.name,
            classes=plan.classes or None,
            num_workers=num_workers,
            progress=progress,
        )
    return write_dataset(
        plan.source, Path(output), name=plan.name, shards=plan.shards, num_workers=num_workers, progress=progress
    )


@dataclass(frozen=True)
class BuildPlan:
    """What `build` would write."""

    source: Source | TarSource
    name: str
    classes: tuple[str, ...]
    """Of tars those that were named: which numbers they hold is seen when they are read."""
    shards: list[range]
    """Samples of each; none of tars, which are indexed where they are."""

    def __str__(self) -> str:
        if isinstance(self.source, TarSource):
            return f"{self.name}: {len(self.source.tars):,} tar(s), indexed where they are"
        sizes = self.source.sizes_bytes
        counted = f"{len(sizes):,} samples of {len(self.classes):,} classes ({shorten(self.classes, 12) or 'none'})"
        return f"{self.name}: {counted}, {len(self.shards):,} shard(s), {sum(sizes) / 1e6:,.1f} MB"


def plan_build(
    source: str | Path | Source | TarSource,
    output: str | Path,
    name: str | None = None,
    classes: Sequence[str] = (),
    max_shard_samples: int = DEFAULT_MAX_SHARD_SAMPLES,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
) -> BuildPlan:
    """Opens the source, without reading what it holds; writes nothing. Raises `DataError` as `build` does."""
    for option, value in [("max_shard_samples", max_shard_samples), ("max_shard_bytes", max_shard_bytes)]:
        if value < 1:
            raise DataError(f"{option}: {value}; at least 1 is needed")
    check_absent(Path(output))
    opened = open_source(source)
    if isinstance(opened, ClassFolder) and Path(output).resolve().is_relative_to(opened.path.resolve()):
        raise DataError(f"output {output}: lies in the source, of which the next build would take it for a part")
    name = opened.name if name is None else name
    check_name(name, "name")
    names = read_class_names(classes, "classes")
    if isinstance(opened, TarSource):
        if (max_shard_samples, max_shard_bytes) != (DEFAULT_MAX_SHARD_SAMPLES, DEFAULT_MAX_SHARD_BYTES):
            raise DataError("max_shard_samples, max_shard_bytes: tars are indexed where they are; leave these out")
        return BuildPlan(opened, name, names, [])
    opened = Reordered(opened, names) if names else opened
    return BuildPlan(opened, name, opened.classes, plan_shards(opened.sizes_bytes, max_shard_samples, max_shard_bytes))


def open_source(source: str | Path | Source | TarSource) -> Source | TarSource:
    """Open `digits`, `digits-in-ink`, `digits-in-ink:colour`, a folder or zip of `class/name.png`, a CSV, JSONL or
    Parquet table, a tar or a folder of tars.

    Raises `DataError` for anything else.
    """
    if not isinstance(source, str | Path):
        return source
    path = Path(source)
    kind, _, label = source.partition(":") if isinstance(source, str) else ("", "", "")
    if kind in ("digits", "digits-in-ink") and not (kind == "digits" and label):
        if path.exists():
            raise DataError(f"source {source}: that is scikit-learn's, and a path here; write ./{source} for the path")
        return Digits() if kind == "digits" else DigitsInInk(label or "digit")
    if not str(source):
        raise DataError("source: empty; give a file or folder")
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise DataError(f"source {source}: no such file or folder; correct the path")
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return TarSource(path)
    if suffix == ".zip":
        return ClassZip(path)
    if suffix in TABLE_SUFFIXES:
        return Table(path)
    known = (
        "`digits`, `digits-in-ink`, a folder or zip of class/name.png, a .csv, .jsonl or .parquet table, a .tar or a "
        "folder of them"
    )
    raise DataError(f"source {source}: unknown kind of file; give {known}")


def _open_folder(path: Path) -> TarSource | ClassFolder:
    if (path / MANIFEST_NAME).exists():
        raise DataError(f"source {path}: is a dataset already ({MANIFEST_NAME}); use it as it is")
    tars = tars_in(path)
    with_images = next((child.name for child in sorted(path.iterdir()) if child.is_dir() and has_images(child)), None)
    if tars and with_images is not None:
        raise DataError(
            f"source {path}: holds tars ({tars[0].name}) and folders of images ({with_images}); move either elsewhere"
        )
    return TarSource(path) if tars else ClassFolder(path)


def write_dataset(
    source: Source,
    output: Path,
    *,
    name: str,
    shards: list[range],
    num_workers: int,
    progress: Progress | None = None,
    latents: Latents | None = None,
) -> Dataset:
    """Write `source`'s samples into new shards, `shards[k]` into the k-th; call inside no `staged`.

    latents: of what its entries have beside their images.
    """
    plan = json.dumps([name, [[samples.start, samples.stop] for samples in shards]])
    stamp = hashlib.sha256(f"{plan}\n{source.stamp()}".encode()).hexdigest()
    with staged(output, stamp) as folder:
        write_parts(
            source, folder, name=name, shards=shards, num_workers=num_workers, progress=progress, latents=latents
        )
    return Dataset.open(output)


def write_parts(
    source: Source,
    folder: Path,
    *,
    name: str,
    shards: list[range],
    num_workers: int,
    progress: Progress | None = None,
    latents: Latents | None = None,
) -> None:
    """The work of `write_dataset` in a folder that is staged already."""

    def write(number: int, stop: StopFlag) -> Part:
        path = folder / f"{name}-{number:06d}.tar"
        return write_shard(path, source, shards[number], number, stop)

    assemble(
        folder,
        write,
        len(shards),
        name=name,
        classes=source.classes,
        num_workers=num_workers,
        progress=progress,
        latents=latents,
    )
