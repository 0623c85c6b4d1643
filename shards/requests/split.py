"""One dataset → a forget set and a remain set that share nothing."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..dataset import Dataset, same_hash
from ..errors import DataError, shorten
from ..format.index import LATENTS_EXTENSION, hash_numbers
from ..format.manifest import Shard
from ..format.tar_reader import read_samples
from ..sources.selection import Selection
from ..writing.assemble import complete, save_index
from ..writing.build import DEFAULT_MAX_SHARD_BYTES, DEFAULT_MAX_SHARD_SAMPLES, write_parts
from ..writing.jobs import Progress, resolve_num_workers
from ..writing.staging import check_absent, staged
from ..writing.write_shard import plan_shards
from .request import Request, Selector, read_request
from .select import select

FORGET_NAME = "forget"
REMAIN_NAME = "remain"
REQUEST_NAME = "request.json"


def split(
    dataset: Dataset | str | Path,
    output: str | Path,
    forget_labels: Sequence[str | int] = (),
    *,
    request: Request | str | Path | None = None,
    left_out: np.ndarray | None = None,
    rewrite: bool = False,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[Dataset, Dataset]:
    """Write `output/forget` and `output/remain`; returns both.

    What to forget is named by class (`forget_labels`) or by an erasure request; what is not named remains, without the
    samples of `left_out` (bool [N]), which a model has forgotten before. `forget` has compact shards of its own.
    `remain` is not rewritten: its index leaves the forgotten rows out and points into the shards of `dataset`, by
    relative path; with `rewrite` it gets purged shards of its own, one for each old one, so that the old data can be
    deleted. `output/request.json` says what was asked and found. Raises `DataError`, writing nothing, when a label, key
    or selector matches nothing, nothing would remain, or a content lies on both sides (the same bytes under two names).
    """
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    output = Path(output)
    num_workers = resolve_num_workers(num_workers)
    check_absent(output)
    asked, forget, remain = plan_split(dataset, forget_labels, request=request, left_out=left_out)
    if rewrite:
        _check_nothing_else(dataset)
    with staged(output, _stamp(forget, remain, asked, rewrite)) as folder:
        for part in (FORGET_NAME, REMAIN_NAME):
            (folder / part).mkdir(exist_ok=True)
        shards = plan_shards(forget.sizes_bytes, DEFAULT_MAX_SHARD_SAMPLES, DEFAULT_MAX_SHARD_BYTES)
        write_parts(
            forget,
            folder / FORGET_NAME,
            name=forget.name,
            shards=shards,
            num_workers=num_workers,
            progress=progress,
            latents=dataset.manifest.latents,
        )
        if rewrite:
            write_parts(
                remain,
                folder / REMAIN_NAME,
                name=remain.name,
                shards=remain.by_shard(),
                num_workers=num_workers,
                progress=progress,
                latents=dataset.manifest.latents,
            )
        else:
            _write_pointers(folder / REMAIN_NAME, remain, final=output / REMAIN_NAME)
        _write_record(folder, asked, dataset, forget, remain)
    return Dataset.open(output / FORGET_NAME), Dataset.open(output / REMAIN_NAME)


def plan_split(
    dataset: Dataset,
    forget_labels: Sequence[str | int] = (),
    *,
    request: Request | str | Path | None = None,
    left_out: np.ndarray | None = None,
) -> tuple[Request, Selection, Selection]:
    """What `split` would take as asked, and put into either set; writes nothing. Raises `DataError` as `split` does."""
    asked = _request(forget_labels, request)
    forgotten = select(dataset, asked)
    remaining = ~forgotten if left_out is None else ~(forgotten | left_out)
    _check_split(dataset, forgotten, remaining)
    forget = Selection(dataset, np.flatnonzero(forgotten), f"{dataset.name}-{FORGET_NAME}")
    remain = Selection(dataset, np.flatnonzero(remaining), f"{dataset.name}-{REMAIN_NAME}")
    return asked, forget, remain


def _request(labels: Sequence[str | int], request: Request | str | Path | None) -> Request:
    if bool(labels) == (request is not None):
        raise DataError("--forget-label, --request: give one of them, at least one label or a request file")
    if request is None:
        return Request((Selector(labels=tuple(labels)),), name="--forget-label")
    return request if isinstance(request, Request) else read_request(Path(request))


def _check_split(dataset: Dataset, forgotten: np.ndarray, remaining: np.ndarray) -> None:
    if not remaining.any():
        left = np.count_nonzero(~forgotten)
        rest = f", but for {left:,} that are left out" if left else ""
        raise DataError(
            f"{dataset.path}: all {len(dataset):,} samples would be forgotten{rest}, none remain; forget fewer"
        )
    forget_rows, remain_rows = np.flatnonzero(forgotten), np.flatnonzero(remaining)
    hashes = hash_numbers(dataset.index)
    overlaps = same_hash(hashes[forget_rows], hashes[remain_rows])
    if overlaps:
        pairs = [f"{dataset.key(forget_rows[i])} = {dataset.key(remain_rows[j])}" for i, j in overlaps]
        what = f"{len(pairs)} forgotten sample(s) are also among the remaining, byte for byte"
        raise DataError(f"{dataset.path}: {what}: {shorten(pairs)}; forget both, or remove one and build again")


def _check_nothing_else(dataset: Dataset) -> None:
    """New shards hold what the index knows: raises `DataError` where the old ones, to be deleted then, hold more."""
    for path in dataset.files.paths:
        for sample in read_samples(path):
            others = sample.members.keys() - {*sample.contents, "cls", "txt", "json", LATENTS_EXTENSION}
            if others:
                told = f"{path}: sample {sample.key!r} has {shorten(sorted(others))}, which new shards would not have"
                raise DataError(f"{told}; split without --rewrite, or remove these members from the tars first")


def _stamp(forget: Selection, remain: Selection, request: Request, rewrite: bool) -> str:
    return hashlib.sha256(repr((forget.stamp(), remain.stamp(), request, rewrite)).encode()).hexdigest()


def _write_pointers(folder: Path, remain: Selection, final: Path) -> None:
    """A dataset without shards of its own."""
    dataset = remain.dataset
    index = dataset.index[remain.rows]
    save_index(folder, index)
    counts = np.bincount(index["shard"], minlength=len(dataset.manifest.shards)).tolist()
    shards = [
        Shard(
            path=os.path.relpath((dataset.path / shard.path).resolve(), final.resolve()),
            bytes=shard.bytes,
            sha256=shard.sha256,
            num_samples=num_samples,
            num_excluded=shard.num_samples + shard.num_excluded - num_samples,
        )
        for shard, num_samples in zip(dataset.manifest.shards, counts, strict=True)
    ]
    complete(
        folder,
        name=remain.name,
        classes=remain.classes,
        image=dataset.image_shape,
        index=index,
        shards=shards,
        latents=dataset.manifest.latents,
    )


def _write_record(folder: Path, request: Request, dataset: Dataset, forget: Selection, remain: Selection) -> None:
    """What was asked, of which data, and how much it was."""
    record = {
        "request": asdict(request),
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint, "num_samples": len(dataset)},
        "num_forgotten": len(forget.rows),
        "num_left_out": len(dataset) - len(forget.rows) - len(remain.rows),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n"
    (folder / REQUEST_NAME).write_text(text, encoding="utf-8")
