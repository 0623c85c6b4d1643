"""A range of a source's samples → one tar in WebDataset naming."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import is_unicode
from ..format.arrays import check_array
from ..format.images import open_image
from ..format.index import IMAGE_EXTENSIONS, LATENTS_EXTENSION, NO_LABEL, Row, content_hash, make_index
from ..format.manifest import Shard
from ..format.tar_writer import TarWriter
from ..sources.source import Entry, Source
from .jobs import StopFlag
from .parts import Part


def plan_shards(sizes_bytes: Sequence[int], max_samples: int, max_bytes: int) -> list[range]:
    """Cut samples, in order, into shards of at most so many samples and content bytes (at least one sample each)."""
    shards, start, num_bytes = [], 0, 0
    for i, size_bytes in enumerate(sizes_bytes):
        if i > start and (i - start == max_samples or num_bytes + size_bytes > max_bytes):
            shards.append(range(start, i))
            start, num_bytes = i, 0
        num_bytes += size_bytes
    if start < len(sizes_bytes):
        shards.append(range(start, len(sizes_bytes)))
    return shards


def write_shard(path: Path, source: Source, samples: range, number: int, stop: StopFlag) -> Part:
    """Write `key.png`, and `key.cls`, `key.txt`, `key.json`, `key.latents.npy` where there is a label, a caption,
    metadata, what an autoencoder makes of the image.

    Decodes every sample once, so that a broken one is found here. Raises `DataError`.
    """
    rows: list[Row] = []
    shapes: set[tuple[int, ...]] = set()
    written = path.with_suffix(".tar.tmp")
    with TarWriter(written) as tar:
        for i in samples:
            stop.check()
            entry = source.entry(i)
            data = source.read(entry)
            shapes.add(content_shape(data, entry.extension, f"{source.name}: {entry.location}"))
            rows.append(_add_sample(tar, entry, data))
    written.rename(path)
    return Part(
        Shard(path.name, tar.num_bytes, tar.sha256(), len(rows), 0), frozenset(shapes), make_index(rows, number)
    )


def content_shape(data: bytes, extension: str, where: str) -> tuple[int, ...]:
    """[H, W, C] of an image, decoded in full; () for arrays, whose header is checked. Raises `DataError`."""
    if extension not in IMAGE_EXTENSIONS:
        check_array(data, extension, where)
        return ()
    image = open_image(data, where)
    return (image.height, image.width, len(image.getbands()))


def _add_sample(tar: TarWriter, entry: Entry, data: bytes) -> Row:
    offset = tar.add(f"{entry.key}.{entry.extension}", data)
    if entry.label != NO_LABEL:
        tar.add(f"{entry.key}.cls", str(entry.label).encode())
    text, meta = entry.text.encode(), _encode_metadata(entry)
    return Row(
        key=entry.key.encode(),
        offset=offset,
        length=len(data),
        extension=entry.extension,
        label=entry.label,
        content_hash=content_hash(data),
        text_offset=tar.add(f"{entry.key}.txt", text) if text else 0,
        text_length=len(text),
        meta_offset=tar.add(f"{entry.key}.json", meta) if meta else 0,
        meta_length=len(meta),
        latents_offset=tar.add(f"{entry.key}.{LATENTS_EXTENSION}", entry.latents) if entry.latents else 0,
        latents_length=len(entry.latents),
    )


def _encode_metadata(entry: Entry) -> bytes:
    if not entry.metadata:
        return b""
    text = json.dumps(entry.metadata, ensure_ascii=False, default=str)
    # half a character can be written as an escape only
    return (text if is_unicode(text) else json.dumps(entry.metadata, default=str)).encode()
