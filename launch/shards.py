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
    """Make WebDataset shards with an index from images, or index existing shards where they are."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """`digits` (scikit-learn's); `digits-in-ink` (the same in six colours, captioned; `digits-in-ink:colour` has the
    colours as classes); a folder or zip of class/name.(png|jpg|jpeg|webp); a .csv, .jsonl or .parquet table with the
    columns path, caption, label, key and any metadata; a .tar or a folder of WebDataset tars (img2dataset's too)."""
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")]
    """Dataset folder to write; must not exist. After a kill, the same command continues."""
    name: str | None = None
    """Name of the dataset and of its shards; the source's name if not given."""
    classes: tuple[str, ...] = ()
    """Class names in the order in which labels count them, absent ones too, as a model knows them: the names, or a file
    with a line for each (.json: a list). The source's own, sorted, if not given; for tars their numbers."""
    max_shard_samples: int = DEFAULT_MAX_SHARD_SAMPLES
    """Samples in a shard, at most."""
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES
    """Bytes of content in a shard, at most (one larger sample still gets a shard)."""
    num_workers: int | None = None
    """Threads; as many as CPUs if not given. The result does not depend on it."""
    dry_run: bool = False
    """Print what would be written, and stop. The images themselves are not read."""

    def run(self) -> None:
        """Write the dataset and print a summary; raises `DataError`."""
        from ..shards.writing.build import build, plan_build
        from ..shards.writing.progress import show_progress

        if self.dry_run:
            sizes = self.max_shard_samples, self.max_shard_bytes
            print(f"would build {plan_build(self.source, self.output, self.name, self.classes, *sizes)}")
            return
        with show_progress("shards") as progress:
            dataset = build(
                self.source,
                self.output,
                name=self.name,
                classes=self.classes,
                max_shard_samples=self.max_shard_samples,
                max_shard_bytes=self.max_shard_bytes,
                num_workers=self.num_workers,
                progress=progress,
            )
        num_bytes = sum(shard.bytes for shard in dataset.manifest.shards)
        where = f"{len(dataset.manifest.shards)} shard(s), {num_bytes / 1e6:,.1f} MB, in {self.output}"
        print(f"{dataset.name}: {len(dataset):,} samples, {len(dataset.classes)} classes, {where}")


@dataclass(frozen=True)
class Split:
    """Cut a dataset into OUTPUT/forget and OUTPUT/remain, which share no key and no content."""

    dataset: Annotated[Positional[Path], arg(metavar="DATASET")]
    """Dataset folder made by `shards build`; its shards are not rewritten, OUTPUT/remain points into them."""
    output: Annotated[Positional[Path], arg(metavar="OUTPUT")]
    """Folder to write; must not exist. After a kill, the same command continues."""
    forget_label: tyro.conf.UseAppendAction[tuple[str, ...]] = field(default=())
    """Class to forget, by name or, where no class name is a number, by position from 0; repeat for several."""
    request: Path | None = None
    """Erasure request (.toml or .json: id, date, reason, and selectors by keys, labels, captions, metadata) instead of
    --forget-label."""
    model: Path | None = None
    """Pipeline folder: samples that it has forgotten before, as its erasediff.json lists them, do not go to remain."""
    rewrite: bool = False
    """Also write OUTPUT/remain as purged shards of its own, so that the old ones can be deleted."""
    num_workers: int | None = None
    """Threads; as many as CPUs if not given. The result does not depend on it."""
    dry_run: bool = False
    """Print how many samples either set would have, and stop."""

    def run(self) -> None:
        """Write both sets and print a summary; raises `DataError`."""
        from ..shards.checking.inspect import summarise
        from ..shards.dataset import Dataset
        from ..shards.requests.split import plan_split, split
        from ..shards.writing.progress import show_progress
        from ..shards.writing.staging import check_absent
        from ..trainer.models.class_names import rows_forgotten_by

        dataset = Dataset.open(self.dataset)
        left_out = None if self.model is None else rows_forgotten_by(self.model, dataset)
        if self.dry_run:
            check_absent(self.output)
            _, *sets = plan_split(dataset, self.forget_label, request=self.request, left_out=left_out)
            for name, part in zip(("forget", "remain"), sets, strict=True):
                counts = summarise(dataset.only(part.rows)).label_counts
                told = ", ".join(f"{count:,} of {label}" for label, count in counts.items() if count)
                print(
                    f"{name}: {len(part.rows):,} of {len(dataset):,} samples would lie there: {told or 'of no class'}"
                )
            if left_out is not None:
                num_left_out = len(dataset) - sum(len(part.rows) for part in sets)
                print(f"left out: {num_left_out:,} samples that {self.model} has forgotten before")
            return
        with show_progress("shards") as progress:
            forget, remain = split(
                dataset,
                self.output,
                self.forget_label,
                request=self.request,
                left_out=left_out,
                rewrite=self.rewrite,
                num_workers=self.num_workers,
                progress=progress,
            )
        shards = "shards of its own" if self.rewrite else f"in the shards of {self.dataset}, not rewritten"
        print(f"forget: {len(forget):,} samples in {forget.path}")
        print(f"remain: {len(remain):,} samples in {remain.path} ({shards})")
        if left_out is not None:
            num_left_out = len(dataset) - len(forget) - len(remain)
            print(f"left out: {num_left_out:,} samples that {self.model} has forgotten before")


@dataclass(frozen=True)
class Verify:
    """Read every byte of a dataset, or of a split's two sets, and say what is wrong; exit status 0 if nothing is."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Made by `shards build` or `shards split`."""
    decode: bool = True
    """Also decode every sample; without it, hashes alone are compared."""
    num_workers: int | None = None
    """Threads; as many as CPUs if not given."""

    def run(self) -> None:
        """Print each problem; raises `DataError` at the end if there was one."""
        from ..shards.checking.verify import verify
        from ..shards.errors import DataError
        from ..shards.writing.progress import show_progress

        with show_progress("shards") as progress:
            problems = verify(self.folder, decode=self.decode, num_workers=self.num_workers, progress=progress)
        for problem in problems:
            print(problem)
        if problems:
            raise DataError(f"{self.folder}: {len(problems):,} problem(s), listed above")
        print(f"{self.folder}: no problem found")


@dataclass(frozen=True)
class Inspect:
    """Show counts, labels and sizes of a dataset, and a picture of some of its samples."""

    dataset: Annotated[Positional[Path], arg(metavar="DATASET")]
    """Made by `shards build` or `shards split`."""
    sheet: Path | None = None
    """PNG to write: a contact sheet with a row of samples for each class."""

    def run(self) -> None:
        """Print the summary and write the sheet; raises `DataError`."""
        from ..shards.checking.inspect import save_sheet, summarise
        from ..shards.dataset import Dataset

        dataset = Dataset.open(self.dataset)
        summary = summarise(dataset)
        sizes = ", ".join(f"{name} {size:,}" for name, size in summary.size_quantiles_bytes.items())
        shape = dataset.image_shape
        excluded = f" ({summary.num_excluded:,} more in them are excluded)" if summary.num_excluded else ""
        print(f"{dataset.name}: {summary.num_samples:,} samples in {summary.num_shards:,} shard(s){excluded}")
        print(f"images: {f'{shape.width} x {shape.height}, {shape.channels} channel(s)' if shape else 'several sizes'}")
        print(f"content: {summary.content_bytes / 1e6:,.1f} MB; bytes a sample: {sizes}")
        print(f"captions: {summary.num_captions:,}; without label: {summary.num_unlabelled:,}")
        print(f"fingerprint: {dataset.fingerprint}")
        for name, count in summary.label_counts.items():
            print(f"{count:>12,}  {name}")
        if self.sheet is not None:
            save_sheet(dataset, self.sheet)
            print(f"contact sheet: {self.sheet}")
