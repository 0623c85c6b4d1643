"""Some samples of a dataset as a source for new shards."""

import hashlib
from collections.abc import Sequence

import numpy as np

from ..dataset import Dataset
from .source import Entry


class Selection:
    """`rows` (int64, ascending) of `dataset`, content as it is. Entries are made when asked for: rows may be many."""

    def __init__(self, dataset: Dataset, rows: np.ndarray, name: str) -> None:
        self.dataset = dataset
        self.rows = rows
        self.name = name
        self.classes = dataset.manifest.classes

    @property
    def sizes_bytes(self) -> Sequence[int]:
        return self.dataset.index["length"][self.rows].tolist()

    def stamp(self) -> str:
        # the index, since the plan of shards follows where the samples lie
        manifest = self.dataset.manifest
        return manifest.fingerprint + manifest.index_sha256 + hashlib.sha256(self.rows.tobytes()).hexdigest()

    def entry(self, i: int) -> Entry:
        row = int(self.rows[i])
        dataset = self.dataset
        return Entry(
            key=dataset.key(row),
            extension=dataset.extension(row),
            size_bytes=int(dataset.index["length"][row]),
            location=str(row),
            label=int(dataset.index["label"][row]),
            text=dataset.text(row),
            metadata=dataset.metadata(row),
            latents=dataset.latents_bytes(row),
        )

    def read(self, entry: Entry) -> bytes:
        return self.dataset.read_bytes(int(entry.location))

    def by_shard(self) -> list[range]:
        """Ranges of samples that lie in one shard of the dataset each."""
        shards = self.dataset.index["shard"][self.rows]
        starts = np.flatnonzero(np.diff(shards, prepend=-1 - shards[:1].astype(np.int64))).tolist()
        return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(shards)], strict=True)]
