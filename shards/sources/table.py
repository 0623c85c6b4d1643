"""A CSV, JSONL or Parquet table: `path` (needed), `caption`, `label`, `key`; every other column is metadata."""

import csv
import json
import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import strict_json
from ..errors import DataError, is_unicode, shorten
from ..format.index import EXTENSIONS, NO_LABEL
from ..format.limits import MAX_SAMPLE_BYTES
from .folder import extension_of, key_of
from .source import Entry, ListedSource, mixed

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
        self.classes = _classes(path, records)
        numbers = {name: label for label, name in enumerate(self.classes)}
        super().__init__(mixed([self._entry(row, record, numbers) for row, record in enumerate(records, 1)]))

    def read(self, entry: Entry) -> bytes:
        try:
            return (self.path.parent / entry.location).read_bytes()
        except OSError as error:
            problem = f"{entry.location!r} cannot be read ({error.strerror})"
            raise DataError(f"{self.path}: {problem}; mend the file or remove its row") from error

    def _entry(self, row: int, record: Record, numbers: dict[str, int]) -> Entry:
        where = f"{self.path}: row {row}"
        file = record.get("path")
        if not isinstance(file, str) or not file:
            raise DataError(f"{where}: `path` is {file!r}; expected a file name")
        extension = extension_of(file)
        if extension not in EXTENSIONS:
            raise DataError(f"{where}: {file!r} is not one of {', '.join(EXTENSIONS)}; remove the row")
        state = _stat(self.path.parent / file, where)
        return Entry(
            key=_cleaned(_text(record, "key", where).replace(".", "_")) or key_of(_cleaned(file)),
            extension=extension,
            size_bytes=state.st_size,
            location=file,
            label=numbers.get(_text(record, "label", where), NO_LABEL),
            text=_text(record, "caption", where),
            metadata=_metadata(record, where),
            modified_ns=state.st_mtime_ns,
        )


def _metadata(record: Record, where: str) -> dict[str, Any]:
    """What is known of the other columns: NaN is what tables have where they know nothing."""
    found = {name: value for name, value in record.items() if name not in _COLUMNS and value is not None}
    found = {name: value for name, value in found.items() if not (isinstance(value, float) and math.isnan(value))}
    try:
        json.dumps(found, allow_nan=False, default=str)
    except ValueError:
        raise DataError(f"{where}: infinity, or NaN in a list, which JSON has no word for; leave it out") from None
    return found


def _read(path: Path) -> Iterator[Record]:
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    try:
        yield from readers[path.suffix.lower()](path)
    except DataError:
        raise
    # csv, json and pyarrow each have their own exceptions for damaged files
    except Exception as error:
        raise DataError(f"{path}: not a readable {path.suffix} table ({error}); write it again") from error


def _check_columns(path: Path, names: Sequence[str]) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if "" in twice:
        raise DataError(f"{path}: two columns have no name; name them, or remove the commas at the header's end")
    if twice:
        raise DataError(f"{path}: two columns are called {shorten(sorted(twice))}; rename one")


def _read_csv(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        _check_columns(path, reader.fieldnames or ())
        for record in reader:
            if None in record:
                raise DataError(f"{path}: a row has more fields than the header; quote commas in values")
            if None in record.values():
                raise DataError(
                    f"{path}: line {reader.line_num} has fewer fields than the header; write its commas, too"
                )
            yield {str(name): value for name, value in record.items() if value != ""}


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = strict_json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(record, dict):
                raise DataError(f"{path}: line {number}: {type(record).__name__}, expected an object")
            yield record


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: Parquet needs pyarrow; pip install 'erasediff[parquet]'") from None
    with pyarrow.parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        if "path" not in schema.names:
            raise DataError(f"{path}: no column `path`, but {shorten(schema.names)}; name each image's file there")
        _check_columns(path, schema.names)
        # images in the table itself would fill the memory, and are not read
        binary = (pyarrow.types.is_binary, pyarrow.types.is_large_binary, pyarrow.types.is_struct)
        columns = [one.name for one in schema if not any(is_kind(one.type) for is_kind in binary)]
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()


def _classes(path: Path, records: list[Record]) -> tuple[str, ...]:
    names = {_text(record, "label", f"{path}: row {row}") for row, record in enumerate(records, 1)} - {""}
    if not all(name.isdecimal() for name in names):
        return tuple(sorted(names))
    # by value: fewer digits are less; `3` and `03` are two names
    return tuple(sorted(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name)))


def _text(record: Record, column: str, where: str) -> str:
    """A value as text, a whole number too; empty for none."""
    value = record.get(column)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int) or not is_unicode(str(value)):
        raise DataError(f"{where}: `{column}` is {value!r}; expected UTF-8 text or a whole number")
    return str(value)


def _cleaned(path: str) -> str:
    """Without what would make a key absolute or lead upwards."""
    return "/".join(part for part in path.split("/") if part not in ("", ".", ".."))


def _stat(path: Path, where: str) -> os.stat_result:
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{where}: {str(path)!r} cannot be read ({error.strerror}); correct the path") from None
    # a zero byte, or half a character
    except ValueError:
        raise DataError(f"{where}: {str(path)!r} is no file name; correct the path") from None
    if not stat.S_ISREG(state.st_mode):
        raise DataError(f"{where}: {str(path)!r} is not a regular file; correct the path")
    if state.st_size > MAX_SAMPLE_BYTES:
        raise DataError(f"{where}: {str(path)!r} has {state.st_size:,} bytes, more than {MAX_SAMPLE_BYTES:,}")
    return state
