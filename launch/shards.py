"""`erasediff shards …`: options of the data commands. Imports torch nowhere."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

# for help texts only: the commands import what they need when they run
DEFAULT_MAX_SHARD_SAMPLES = 10_000
DEFAULT_MAX_SHARD_BYTES = 1 << 30


@dataclass(frozen=True)
class Build:
    """Make WebDataset shards with an index from images."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """`digits` (scikit-learn's), or a folder or zip of class/name.(png|jpg|jpeg|webp)."""
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")]
    """Dataset folder to write; must not exist."""
    name: str | None = None
    """Name of the dataset and of its shards; the source's name if not given."""
    max_shard_samples: int = DEFAULT_MAX_SHARD_SAMPLES
    """Samples in a shard, at most."""
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES
    """Bytes of images in a shard, at most (one larger image still gets a shard)."""

    def run(self) -> None:
        """Write the dataset and print a summary; raises `DataError`."""
        from ..shards.build import build

        dataset = build(
            self.source,
            self.output,
            name=self.name,
            max_shard_samples=self.max_shard_samples,
            max_shard_bytes=self.max_shard_bytes,
        )
        num_bytes = sum(shard.bytes for shard in dataset.manifest.shards)
        where = f"{len(dataset.manifest.shards)} shard(s), {num_bytes / 1e6:,.1f} MB in {self.output}"
        print(f"{dataset.name}: {len(dataset):,} samples, {len(dataset.classes)} classes, {where}")


@dataclass(frozen=True)
class Split:
    """Cut a dataset into OUTPUT/forget and OUTPUT/remain, which share no key and no content."""

    dataset: Annotated[Positional[Path], arg(metavar="DATASET")]
    """Dataset folder made by `shards build`; its shards are not rewritten, OUTPUT/remain points into them."""
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")]
    """Folder to write; must not exist."""
    forget_label: tyro.conf.UseAppendAction[tuple[str, ...]] = field(default=())
    """Class to forget, by name or, where no class name is a number, by position from 0; repeat for several."""

    def run(self) -> None:
        """Write both sets and print a summary; raises `DataError`."""
        from ..shards.split import split

        forget, remain = split(self.dataset, self.output, self.forget_label)
        print(f"forget: {len(forget):,} samples in {forget.path}")
        print(f"remain: {len(remain):,} samples in {remain.path} (shards of {self.dataset}, not rewritten)")
