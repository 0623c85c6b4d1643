"""One shard against its rows of the index."""

from collections.abc import Iterator

import numpy as np

from ..dataset import Dataset
from ..errors import DataError, shorten
from ..format.index import LATENTS_EXTENSION, NO_LABEL, content_hash
from ..format.tar_reader import Member, TarSample, read_samples
from ..writing.jobs import StopFlag
from ..writing.write_shard import content_shape


def shard_problems(dataset: Dataset, number: int, decode: bool, stop: StopFlag) -> list[str]:
    """What is wrong with shard `number`; see `verify`."""
    path = dataset.files.paths[number]
    try:
        samples = {sample.key: sample for sample in read_samples(path)}
    except DataError as error:
        return [str(error)]
    shard = dataset.manifest.shards[number]
    problems = []
    if len(samples) != shard.num_samples + shard.num_excluded:
        expected = f"{shard.num_samples:,} + {shard.num_excluded:,} excluded"
        problems.append(f"{path}: index out of date: {len(samples):,} samples, {expected} expected; build it again")
    # rows lie shard after shard: to search them would copy their column
    start = sum(earlier.num_samples for earlier in dataset.manifest.shards[:number])
    for i in range(start, start + shard.num_samples):
        stop.check()
        problems += _sample_problems(dataset, i, samples.get(dataset.key(i)), decode)
    return problems


def _sample_problems(dataset: Dataset, i: int, sample: TarSample | None, decode: bool) -> Iterator[str]:
    where = dataset.where(i)
    if sample is None:
        yield f"{where}: not in the shard: index out of date; build the dataset again"
        return
    differing = [name for name, same in _agreements(dataset, i, sample) if not same]
    if differing:
        yield f"{where}: {shorten(differing)} not where the index says: index out of date; build the dataset again"
        return
    data = dataset.read_bytes(i)
    if content_hash(data) != dataset.index["content_hash"][i].tobytes():
        yield f"{where}: content hash is not the recorded one: damaged; copy or build the shard again"
    if decode:
        try:
            content_shape(data, dataset.extension(i), where)
            dataset.text(i)
            dataset.metadata(i)
            if dataset.manifest.latents is not None:
                dataset.latents(i)
        except DataError as error:
            yield str(error)


def _agreements(dataset: Dataset, i: int, sample: TarSample) -> Iterator[tuple[str, bool]]:
    row = dataset.index[i]
    yield "content", _is_at(sample.members.get(dataset.extension(i)), row["offset"], row["length"])
    for kind, extension in (("text", "txt"), ("meta", "json")):
        offset, length = row[f"{kind}_offset"], row[f"{kind}_length"]
        member = sample.members.get(extension)
        yield extension, _is_at(member, offset, length) if length else member is None or not member.length
    if dataset.manifest.latents is not None:
        member = sample.members.get(LATENTS_EXTENSION)
        yield LATENTS_EXTENSION, _is_at(member, row["latents_offset"], row["latents_length"])
    label = sample.members.get("cls")
    yield "cls", (label is None) == (int(row["label"]) == NO_LABEL) and _label_is(dataset, row, label)


def _is_at(member: Member | None, offset: int, length: int) -> bool:
    return member is not None and (member.offset, member.length) == (int(offset), int(length))


def _label_is(dataset: Dataset, row: np.void, member: Member | None) -> bool:
    if member is None:
        return True
    text = dataset.files.read(int(row["shard"]), member.offset, member.length).strip()
    return text.isdigit() and int(text) == int(row["label"])
