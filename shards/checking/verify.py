"""Reads every byte of a dataset and says what is wrong with it."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ..dataset import Dataset, check_disjoint, check_size
from ..errors import DataError
from ..format.index import fingerprint, load_index
from ..format.manifest import INDEX_NAME, MANIFEST_NAME, Manifest, Shard, read_manifest
from ..requests.split import FORGET_NAME, REMAIN_NAME
from ..writing.assemble import check_unique
from ..writing.jobs import Progress, StopFlag, resolve_num_workers, run_jobs
from .verify_shard import shard_problems


def verify(
    path: str | Path, *, decode: bool = True, num_workers: int | None = None, progress: Progress | None = None
) -> list[str]:
    """Problems of a dataset folder, or of a folder made by `split` (both sets, and what they share); empty if none.

    Checks hashes of shards, index and samples, truncated or trailing bytes, duplicate keys, missing members, whether
    the index is what the shards hold, and, with `decode`, that every sample can be decoded. Raises `DataError` only
    when there is nothing to verify.
    """
    path = Path(path)
    num_workers = resolve_num_workers(num_workers)
    sets = [path / FORGET_NAME, path / REMAIN_NAME]
    if (path / MANIFEST_NAME).exists() or not all(part.is_dir() for part in sets):
        return _dataset_problems(path, decode, num_workers, progress)
    problems = [line for part in sets for line in _dataset_problems(part, decode, num_workers, progress)]
    return problems + _attempt(lambda: check_disjoint(Dataset.open(sets[0]), Dataset.open(sets[1])))


def _dataset_problems(path: Path, decode: bool, num_workers: int, progress: Progress | None) -> list[str]:
    manifest = read_manifest(path)
    try:
        index = load_index(path / INDEX_NAME)
    except DataError as error:
        return [str(error)]
    problems = index_problems(path / INDEX_NAME, manifest, index)
    if problems:
        # offsets of another index would only produce noise
        return problems
    dataset = Dataset(path, manifest, index)
    jobs = [partial(_check_shard, dataset, number, decode) for number in range(len(manifest.shards))]
    return [line for lines in run_jobs(jobs, num_workers, progress) for line in lines]


def index_problems(path: Path, manifest: Manifest, index: np.ndarray) -> list[str]:
    """Whether an index is the one that the manifest tells of."""
    advice = "build the dataset again"
    counts = [shard.num_samples for shard in manifest.shards]
    expected = np.repeat(np.arange(len(counts)), counts)
    if len(index) != manifest.num_samples or not np.array_equal(index["shard"], expected):
        return [f"{path}: index out of date: its rows are not those that {MANIFEST_NAME} counts; {advice}"]
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest.index_sha256:
            return [f"{path}: index out of date: its SHA-256 is not the one in {MANIFEST_NAME}; {advice}"]
    if fingerprint(index, manifest.classes) != manifest.fingerprint:
        return [f"{path}: index out of date: its fingerprint is not the one in {MANIFEST_NAME}; {advice}"]
    return _attempt(lambda: check_unique(index))


def _check_shard(dataset: Dataset, number: int, decode: bool, stop: StopFlag) -> list[str]:
    shard = dataset.manifest.shards[number]
    path = dataset.path / shard.path
    problems = _attempt(lambda: check_size(path, shard.bytes))
    return problems or file_problems(path, shard) + shard_problems(dataset, number, decode, stop)


def file_problems(path: Path, shard: Shard) -> list[str]:
    """Whether a shard's bytes are those that the manifest tells of."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            return [f"{path}: SHA-256 is not the recorded one; copy or build it again"]
    return []


def _attempt(check: Callable[[], None]) -> list[str]:
    try:
        check()
    except DataError as error:
        return [str(error)]
    return []
