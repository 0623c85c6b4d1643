"""CSV, JSONL and Parquet tables as sources."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from erasediff.shards import DataError, build
from erasediff.shards.checking.verify import verify
from erasediff.shards.requests.request import Request, Selector
from erasediff.shards.requests.select import select
from webdataset.compat import WebDataset

RECORDS = [
    {"path": "cat/0.png", "caption": "a cat, asleep", "label": "cat", "year": 2019},
    {"path": "cat/1.jpg", "caption": "ein Kätzchen", "label": "cat", "year": 2021},
    {"path": "dog/0.png", "caption": "two\nlines", "label": "dog", "year": 2020},
]


def write_table(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix.lower() == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_kind_of_table(pictures: Path, tmp_path: Path, suffix: str) -> None:
    dataset = build(write_table(pictures / f"table{suffix}", RECORDS), tmp_path / "out")
    assert dataset.classes == ("cat", "dog")
    by_key = {key: i for i, key in enumerate(dataset.keys)}
    for record in RECORDS:
        i = by_key[record["path"].partition(".")[0]]
        assert dataset.text(i) == record["caption"]
        assert dataset.classes[dataset.labels[i]] == record["label"]
        assert dataset.read_bytes(i) == (pictures / record["path"]).read_bytes()
        assert str(dataset.metadata(i)["year"]) == str(record["year"])


def test_plain_webdataset_reads_captions_metadata_and_any_name(pictures: Path, tmp_path: Path) -> None:
    records = [
        *RECORDS,
        {"path": "émeu/0.png", "caption": "ein großer Vogel", "label": "émeu", "names": ["Emu", "鴯鶓"]},
    ]
    dataset = build(write_table(pictures / "t.jsonl", records), tmp_path / "out")
    tars = [str(path) for path in dataset.files.paths]
    decoded = WebDataset(tars, shardshuffle=False).decode("pil")
    seen = {sample["__key__"]: sample for sample in iter(decoded)}  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert list(seen) == dataset.keys
    for record in records:
        sample = seen[record["path"].partition(".")[0]]
        assert sample["txt"] == record["caption"]
        assert dataset.classes[sample["cls"]] == record["label"]
        assert sample["json"] == {name: value for name, value in record.items() if name in ("year", "names")}
    assert seen["émeu/0"]["png"].size == (16, 12)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_nan_is_what_a_table_does_not_know(pictures: Path, tmp_path: Path, suffix: str) -> None:
    """By whatever it is written; the same samples are selected."""
    table = pictures / f"t.{suffix}"
    if suffix == "csv":
        table.write_text("path,year\ncat/0.png,nan\ncat/1.jpg,2011\n")
    elif suffix == "jsonl":
        table.write_text('{"path": "cat/0.png", "year": NaN}\n{"path": "cat/1.jpg", "year": 2011.0}\n')
    else:
        columns = {"path": ["cat/0.png", "cat/1.jpg"], "year": [float("nan"), 2011.0]}
        pyarrow.parquet.write_table(pyarrow.table(columns), table)
    dataset = build(table, tmp_path / "out")
    chosen = select(dataset, Request((Selector(metadata=("year != 2010",)),)))
    assert [dataset.keys[i] for i in np.flatnonzero(chosen)] == ["cat/1"]
    known = dataset.metadata(dataset.keys.index("cat/0"))
    assert known == ({"year": "nan"} if suffix == "csv" else {})
    assert verify(dataset.path) == []


def test_two_columns_of_one_name_are_a_mistake_in_parquet_too(pictures: Path, tmp_path: Path) -> None:
    columns = [pyarrow.array([value]) for value in ("cat/0.png", "a", "b")]
    table = pyarrow.Table.from_arrays(columns, names=["path", "label", "label"])
    pyarrow.parquet.write_table(table, pictures / "t.parquet")
    with pytest.raises(DataError, match="two columns are called label; rename one"):
        build(pictures / "t.parquet", tmp_path / "out")


def test_labels_that_are_numbers_sort_as_numbers(pictures: Path, tmp_path: Path) -> None:
    records = [{"path": "cat/0.png", "label": 10}, {"path": "cat/1.jpg", "label": 9}]
    assert build(write_table(pictures / "t.jsonl", records), tmp_path / "out").classes == ("9", "10")


def test_two_spellings_of_a_number_are_two_classes_in_a_fixed_order(pictures: Path, tmp_path: Path) -> None:
    labels = ["3", "03", "10", "9" * 5000]
    records = [
        {"path": f"cat/{i}.{'png' if i in (0, 3) else ('jpg', 'webp')[i - 1]}", "label": labels[i]} for i in range(4)
    ]
    assert build(write_table(pictures / "t.jsonl", records), tmp_path / "out").classes == ("03", "3", "10", "9" * 5000)


def test_keys_that_a_tar_could_not_have_are_cleaned(pictures: Path, tmp_path: Path) -> None:
    records = [
        {"path": "cat/0.png", "key": 0},
        {"path": "cat/1.jpg", "key": "/abs//x"},
        {"path": "cat/2.webp", "key": "b/"},
        {"path": "cat/3.png", "title": "cut in an emoji \ud83d"},
    ]
    dataset = build(write_table(pictures / "T.JSONL", records), tmp_path / "out")
    assert sorted(dataset.keys) == ["0", "abs/x", "b", "cat/3"]
    assert dataset.metadata(dataset.keys.index("cat/3")) == {"title": "cut in an emoji \ud83d"}
    assert verify(dataset.path) == []


def test_labels_captions_and_keys_are_optional(pictures: Path, tmp_path: Path) -> None:
    records = [{"path": str(pictures / "cat/0.png")}, {"path": "../pictures/cat/1.jpg", "key": "my.key"}]
    dataset = build(write_table(pictures / "t.jsonl", records), tmp_path / "out")
    assert dataset.classes == ()
    assert set(dataset.labels) == {-1}
    assert dataset.read(0).label is None
    assert dataset.text(0) == ""
    assert "my_key" in dataset.keys
    assert not any(key.startswith("/") or ".." in key for key in dataset.keys)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "file\ncat/0.png\n", "row 1: `path` is None"),
        ("t.csv", "path\n", "no rows"),
        ("t.csv", "path,label\ncat/0.png,a,b\n", "more fields than the header"),
        ("t.csv", "path,label,person\ncat/0.png,a,17\ncat/1.png,a\n", "line 3 has fewer fields than the header"),
        ("t.csv", "path,label,label\ncat/0.png,a,b\n", "two columns are called label; rename one"),
        ("t.jsonl", '{"path": "cat/0.png", "path": "cat/1.png"}\n', "'path' is there twice; write one of them"),
        ("t.csv", "path\nnowhere.png\n", r"row 1: .*nowhere\.png.*No such file"),
        ("t.csv", "path\npipe:cat x.png\n", r"row 1: .*No such file"),
        ("t.csv", "path\n/etc/passwd\n", "is not one of png"),
        ("t.jsonl", "{", r"not a readable \.jsonl table"),
        ("t.jsonl", "[1]\n", "line 1: list, expected an object"),
        ("t.jsonl", '{"path": "cat/0.png"}\n\n{"path": 1, "path": 2}\n', r"\(line 3: 'path' is there twice; write one"),
        ("t.jsonl", '{"path": "cat/0.png"}\n{"path": ,}\n', r"\(line 2, column 10: Expecting value\)"),
        ("t.jsonl", '{"path": "cat/0.png", "year": Infinity}', "row 1: infinity, or NaN in a list, which JSON has no"),
        ("t.jsonl", '{"path": "cat/0.png", "years": [NaN]}', "row 1: infinity, or NaN in a list, which JSON has no"),
        ("t.csv", "path,label,,\ncat/0.png,a,,\n", "two columns have no name; name them, or remove the commas at"),
        ("t.jsonl", "[" * 100_000, r"not a readable \.jsonl table"),
        ("t.parquet", "PAR1", r"not a readable \.parquet table"),
        ("t.jsonl", r'{"path": "a\u0000.png"}', r"row 1: .* is no file name"),
        ("t.jsonl", r'{"path": "\ud800.png"}', r"row 1: .* is no file name"),
        ("t.jsonl", r'{"path": "cat/0.png", "caption": "\ud800"}', "row 1: `caption` is '.ud800'; expected UTF-8"),
        ("t.jsonl", r'{"path": "cat/0.png", "key": "\ud800"}', "row 1: `key` is '.ud800'; expected UTF-8"),
        ("t.jsonl", r'{"path": "cat/0.png", "key": "a\u0000"}', "name or key is not UTF-8 text"),
        ("t.jsonl", f'{{"path": "cat/0.png", "key": "{"k" * 5000}"}}', "a key of 5,000 bytes"),
        ("t.jsonl", '{"path": "cat/0.png", "caption": ["one", "two"]}', "row 1: `caption` is .'one', 'two'.; expected"),
        ("t.jsonl", '{"path": "cat/0.png", "label": 3.0}', "row 1: `label` is 3.0; expected UTF-8 text or a whole"),
        (
            "t.jsonl",
            '{"path": "cat/0.png", "key": "a"}\n{"path": "cat/1.jpg", "key": "a"}',
            "several files give one key",
        ),
    ],
)
def test_mistakes(pictures: Path, tmp_path: Path, name: str, text: str, message: str) -> None:
    (pictures / name).write_text(text)
    with pytest.raises(DataError, match=message):
        build(pictures / name, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
