"""A CSV, JSONL or Parquet table: `path` (needed), `caption`, `label`, `key`; every other column is metadata."""

import csv
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError
from .folder import extension_of, key_of
from .index import EXTENSIONS, NO_LABEL
from .source import MAX_SAMPLE_BYTES, Entry, ListedSource, mixed

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
_COLUMNS = ("path", "caption", "label", "key")
Record = dict[str, Any]


class Table(ListedSource):
    """Files named by a table; relative paths start at the table's folder.

    Labels are class names; classes are sorted, as numbers where all are numbers. Without a `key` column the key is the
    path, `..` and a leading slash left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem
        records = list(_read(path))
        if not records:
            raise DataError(f"{path}: no rows; expected a table with a column `path`")
        self.classes = _classes(records)
        numbers = {name: label for label, name in enumerate(self.classes)}
        super().__init__(mixed([self._entry(row, record, numbers) for row, record in enumerate(records, 1)]))

    def read(self, entry: Entry) -> bytes:
        try:
            return (self.path.parent / entry.location).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path}: {entry.location!r} cannot be read ({error.strerror})") from error

    def _entry(self, row: int, record: Record, numbers: dict[str, int]) -> Entry:
        where = f"{self.path}: row {row}"
        file = record.get("path")
        if not isinstance(file, str) or not file:
            raise DataError(f"{where}: `path` is {file!r}; expected a file name")
        extension = extension_of(file)
        if extension not in EXTENSIONS:
            raise DataError(f"{where}: {file!r} is not one of {', '.join(EXTENSIONS)}; remove the row")
        state = _stat(self.path.parent / file, where)
        label = _label(record)
        return Entry(
            key=str(record.get("key") or "").replace(".", "_") or _key(file),
            extension=extension,
            size_bytes=state.st_size,
            location=file,
            label=NO_LABEL if label is None else numbers[label],
            text=str(record.get("caption") or ""),
            metadata={name: value for name, value in record.items() if name not in _COLUMNS and value is not None},
            modified_ns=state.st_mtime_ns,
        )


def _read(path: Path) -> Iterator[Record]:
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    try:
        yield from readers[path.suffix](path)
    except DataError:
        raise
    # csv, json and pyarrow each have their own exceptions for damaged files
    except Exception as error:
        raise DataError(f"{path}: not a readable {path.suffix} table ({error}); write it again") from error


def _read_csv(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for record in csv.DictReader(file, strict=True):
            if None in record:
                raise DataError(f"{path}: a row has more fields than the header; quote commas in values")
            yield {str(name): value for name, value in record.items() if value != ""}


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            record = json.loads(line)
            if not isinstance(record, dict):
                raise DataError(f"{path}: line {number}: {type(record).__name__}, expected an object")
            yield record


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: Parquet needs pyarrow; pip install 'erasediff[parquet]'") from None
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _classes(records: list[Record]) -> tuple[str, ...]:
    names = {label for record in records if (label := _label(record)) is not None}
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else str))


def _label(record: Record) -> str | None:
    label = record.get("label")
    return None if label is None else str(label)


def _key(file: str) -> str:
    return key_of("/".join(part for part in file.split("/") if part not in ("", ".", "..")))


def _stat(path: Path, where: str) -> os.stat_result:
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{where}: {str(path)!r} cannot be read ({error.strerror}); correct the path") from None
    if not stat.S_ISREG(state.st_mode):
        raise DataError(f"{where}: {str(path)!r} is not a regular file; correct the path")
    if state.st_size > MAX_SAMPLE_BYTES:
        raise DataError(f"{where}: {str(path)!r} has {state.st_size:,} bytes, more than {MAX_SAMPLE_BYTES:,}")
    return state
