"""Erasure requests: what selectors mean, and what a request file may not hold."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from erasediff.shards import DataError, Dataset, build, check_disjoint, split
from erasediff.shards.requests.expression import parse_comparison
from erasediff.shards.requests.request import Request, Selector, read_request
from erasediff.shards.requests.select import select
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

PEOPLE = ["Jane Doe", "John [Roe]", "jane doe jr."]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """30 pictures in four shards: 10 of each person, taken 2010 ... 2019."""
    folder = tmp_path_factory.mktemp("gallery")
    records = []
    for i in range(30):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(folder / f"p{i:02d}.png")
        records.append(
            {
                "path": f"p{i:02d}.png",
                "caption": f"A photo of {PEOPLE[i % 3]}",
                "label": "ab"[i % 2],
                "year": 2010 + i // 3,
            }
        )
    (folder / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return build(folder / "t.jsonl", folder / "out", max_shard_samples=8)


def numbers(dataset: Dataset) -> list[int]:
    return sorted(int(key[1:]) for key in dataset.keys)


SELECTORS: list[tuple[dict[str, Any], set[int]]] = [
    ({"keys": ["p03", "p17"]}, {3, 17}),
    ({"labels": ["b"]}, set(range(1, 30, 2))),
    ({"labels": [0]}, set(range(0, 30, 2))),
    ({"captions": ["*jane doe*"]}, set(range(30)) - set(range(1, 30, 3))),
    ({"captions": ["a photo of jane doe"]}, set(range(0, 30, 3))),
    ({"captions": ["*[Roe]"]}, set(range(1, 30, 3))),
    ({"metadata": ["year >= 2018"]}, set(range(24, 30))),
    ({"metadata": ["year != 2010", "year<2012"]}, {3, 4, 5}),
    ({"captions": ["*jane*"], "metadata": ["year == 2010"], "labels": ["a"]}, {0, 2}),
]


@pytest.mark.parametrize(("selector", "expected"), SELECTORS)
@pytest.mark.parametrize("suffix", [".json", ".toml"])
@pytest.mark.parametrize("rewrite", [False, True])
def test_selectors(
    gallery: Dataset, tmp_path: Path, selector: dict[str, Any], expected: set[int], suffix: str, rewrite: bool
) -> None:
    file = tmp_path / f"request{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps({"id": "7", "date": "2026-11-21", "reason": "asked", "selectors": [selector]}))
    else:
        fields = "\n".join(f"{name} = {json.dumps(value)}" for name, value in selector.items())
        file.write_text(f'id = "7"\ndate = 2026-11-21\nreason = "asked"\n[[selectors]]\n{fields}\n')
    forget, remain = split(gallery, tmp_path / "out", request=file, rewrite=rewrite)
    assert numbers(forget) == sorted(expected)
    assert numbers(remain) == sorted(set(range(30)) - expected)
    check_disjoint(forget, remain)
    for part in (forget, remain):
        for i, key in enumerate(part.keys):
            assert part.read(i).image[0, 0, 0] == int(key[1:])
            assert part.metadata(i) == {"year": 2010 + int(key[1:]) // 3}
    record = json.loads((tmp_path / "out" / "request.json").read_text())
    assert record["request"]["id"] == "7"
    assert record["num_forgotten"] == len(expected)
    assert record["dataset"]["fingerprint"] == gallery.fingerprint


def test_a_letter_spelled_in_two_ways(tmp_path: Path) -> None:
    # macOS writes é as e and an accent
    for i, name in enumerate(["Zo\u00e9", "Zoe\u0301", "Zoe"]):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"p{i}.png")
        with (tmp_path / "t.jsonl").open("a") as file:
            file.write(json.dumps({"path": f"p{i}.png", "caption": f"A photo of {name}"}) + "\n")
    build(tmp_path / "t.jsonl", tmp_path / "out")
    for number, pattern in enumerate(["*ZO\u00c9", "*zoe\u0301"]):
        request = Request((Selector(captions=(pattern,)),))
        assert numbers(split(tmp_path / "out", tmp_path / f"{number}", request=request)[0]) == [0, 1]


def test_selectors_are_united(gallery: Dataset, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"selectors": [{"keys": ["p01"]}, {"metadata": ["year == 2019"]}]}))
    assert numbers(split(gallery, tmp_path / "out", request=tmp_path / "r.json")[0]) == [1, 27, 28, 29]


def test_no_caption_matches_no_pattern(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"p{i}.png")
    records = [{"path": "p0.png", "caption": "a cat"}, {"path": "p1.png", "caption": ""}, {"path": "p2.png"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    data = build(tmp_path / "t.jsonl", tmp_path / "data")
    forget, _ = split(data, tmp_path / "out", request=Request((Selector(captions=("*",)),)))
    assert numbers(forget) == [0]


def test_rewritten_remain_needs_the_old_shards_no_more(gallery: Dataset, tmp_path: Path) -> None:
    _, remain = split(gallery, tmp_path / "out", ["a"], rewrite=True)
    assert all("/" not in shard.path and shard.num_excluded == 0 for shard in remain.manifest.shards)
    pointing = split(gallery, tmp_path / "pointing", ["a"])[1]
    assert remain.fingerprint == pointing.fingerprint
    forgotten = [gallery.read_bytes(i) for i in np.flatnonzero(gallery.labels == 0).tolist()]
    purged = b"".join((remain.path / shard.path).read_bytes() for shard in remain.manifest.shards)
    assert not any(content in purged for content in forgotten)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "selectors: Field required"),
        ("selectors = []", "selectors: each needs at least one"),
        ("[[selectors]]", "selectors: each needs at least one"),
        ("[[selectors]]\nkey = ['a']", "selectors.0.key: "),
        ("surprise = 1\n[[selectors]]\nkeys = ['p01']", "surprise: "),
        ("name = 'x'\n[[selectors]]\nkeys = ['p01']", "expected the fields"),
        ("date = 'soon'\n[[selectors]]\nkeys = ['p01']", "date: "),
        ("[[selectors]]\nkeys = ['p01', 'p99', 'q']", "keys that .* does not have: p99, q;"),
        ("[[selectors]]\nlabels = ['c']", "label c: no such class"),
        ("[[selectors]]\ncaptions = ['*cat*']", "selector 1 selects no sample"),
        ("[[selectors]]\nmetadata = ['year']", "'year' is no comparison"),
        ("[[selectors]]\nmetadata = ['year != NaN']", "'NaN' is no number"),
        ("[[selectors]]\nmetadata = ['year < 1e999']", "'1e999' is no number"),
        ("[[selectors]]\nmetadata = ['__import__(\"os\") == 1']", "is no comparison"),
        ("[[selectors]]\nmetadata = ['year == [2010]']", "is no number"),
        ("[[selectors]]\nmetadata = ['*']\ncaptions = ['*']", "is no comparison"),
        ("[[selectors]]\ncaptions = ['*']", "all 30 samples would be forgotten"),
        ("x = " + "[" * 10_000, "r.toml: "),
    ],
)
def test_mistakes(gallery: Dataset, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        split(gallery, tmp_path / "out", request=tmp_path / "r.toml")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "r.toml") in str(caught.value) or "would be forgotten" in message
    assert [file.name for file in tmp_path.iterdir()] == ["r.toml"]


def test_a_name_that_json_has_twice(gallery: Dataset, tmp_path: Path) -> None:
    """Of the two, the first would be dropped, and with it half of what is asked for."""
    (tmp_path / "r.json").write_text('{"selectors": [{"labels": ["a"]}], "selectors": [{"keys": ["p01"]}]}')
    with pytest.raises(DataError, match="'selectors' is there twice; write one of them"):
        read_request(tmp_path / "r.json")


def test_a_class_in_another_spelling_of_unicode(tmp_path: Path) -> None:
    for name in ("do\u0308g", "dog"):
        (tmp_path / "p" / name).mkdir(parents=True)
        Image.new("L", (4, 4), len(name)).save(tmp_path / "p" / name / "0.png")
    dataset = build(tmp_path / "p", tmp_path / "data")
    chosen = select(dataset, Request((Selector(labels=("d\u00f6g",)),), name="r"))
    assert [dataset.classes[label] for label in dataset.labels[chosen]] == ["do\u0308g"]


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({"keys": ["\ud800"]}, "half a character"),
        ({"captions": ["a \udfff"]}, "half a character"),
        ({"labels": ["\ud800"]}, "half a character"),
        ({"labels": [True]}, r"selectors\.0\.labels\.0"),
        ({"labels": [1.0]}, r"selectors\.0\.labels\.0"),
    ],
)
def test_what_json_can_say_and_a_request_may_not(tmp_path: Path, selector: dict[str, Any], message: str) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"selectors": [selector]}))
    with pytest.raises(DataError, match=rf"r\.json: {message}"):
        read_request(tmp_path / "r.json")


def test_a_request_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erasediff.shards.requests.request.MAX_REQUEST_BYTES", 1000)
    with pytest.raises(DataError, match="/dev/zero: more than 1,000 bytes"):
        read_request(Path("/dev/zero"))


def test_request_or_labels(gallery: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give one of them"):
        split(gallery, tmp_path / "out")
    with pytest.raises(DataError, match=r"nowhere\.toml: cannot be read"):
        read_request(tmp_path / "nowhere.toml")


@given(value=st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.booleans()))
def test_comparisons_agree_with_python(value: str | float | bool) -> None:
    other = parse_comparison(f"field == {json.dumps(value)}")
    assert other.holds({"field": value})
    assert not parse_comparison(f"field != {json.dumps(value)}").holds({"field": value})
    assert not other.holds({})
    assert not other.holds({"field": None})
    assert not parse_comparison(f"field != {json.dumps(value)}").holds({"field": [value]})


def test_numbers_written_as_text_compare_as_numbers() -> None:
    assert parse_comparison("width < 512").holds({"width": "64"})
    assert not parse_comparison('width < "512"').holds({"width": 64})
    assert not parse_comparison("width == 1").holds({"width": True})
    assert not parse_comparison("width != 1").holds({"width": "nan"})
    assert not parse_comparison("width != 1").holds({"width": math.nan})


def test_long_ids_written_as_text_are_not_rounded() -> None:
    assert parse_comparison("user_id == 9007199254740993").holds({"user_id": "9007199254740993"})
    assert not parse_comparison("user_id == 9007199254740992").holds({"user_id": "9007199254740993"})


def test_a_caption_of_one_letter_is_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{name}.png")
    records = [{"path": "a.png", "caption": "7"}, {"path": "b.png", "caption": ""}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    data = build(tmp_path / "t.jsonl", tmp_path / "out")
    chosen = select(data, Request((Selector(captions=("?",)),)))
    assert [key for key, is_chosen in zip(data.keys, chosen, strict=True) if is_chosen] == ["a"]


def test_spaces_and_line_ends_do_not_matter(tmp_path: Path) -> None:
    """Text files end with one, and models read over them."""
    for number in range(3):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / f"{number}.png")
    captions = ["A photo of Jane Doe\n", " a photo of  Jane\tDoe", "Jane Doe at sea"]
    rows = [{"path": f"{number}.png", "caption": caption} for number, caption in enumerate(captions)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = build(tmp_path / "t.jsonl", tmp_path / "out")
    for pattern, expected in (("*jane doe", {"0", "1"}), ("*  Jane Doe\n", {"0", "1"}), ("jane*sea", {"2"})):
        chosen = select(data, Request((Selector(captions=(pattern,)),)))
        assert {data.key(i) for i in np.flatnonzero(chosen).tolist()} == expected, pattern


@pytest.mark.parametrize("empty", ["keys", "labels", "captions", "metadata"])
def test_a_list_that_came_out_empty_is_no_wish_for_all_else(tmp_path: Path, empty: str) -> None:
    path = tmp_path / "request.json"
    others = {"labels": ["a"]} if empty != "labels" else {"captions": ["*"]}
    path.write_text(json.dumps({"selectors": [{"keys": ["k"]}, others | {empty: []}]}))
    with pytest.raises(DataError, match=f"selector 2: {empty} is empty; name something, or leave it out"):
        read_request(path)


def test_where_names_are_numbers_a_number_is_a_name(tmp_path: Path) -> None:
    for number, name in enumerate(("3", "5", "5")):
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / "in" / name / f"{number}.png")
    data = build(tmp_path / "in", tmp_path / "out")
    assert select(data, Request((Selector(labels=("5",)),))).sum() == 2
    for position in (0, 1, "1"):
        with pytest.raises(DataError, match=f"label {position}: no such class"):
            select(data, Request((Selector(labels=(position,)),)))
