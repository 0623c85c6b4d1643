"""Which classes there are, and in which order: the builder's word, and a reader's other order."""

import json
from pathlib import Path

import numpy as np
import pytest
from erasediff.launch.cli import main
from erasediff.shards import DataError, Dataset, Stream, build, split
from erasediff.shards.checking.verify import verify
from webdataset.writer import ShardWriter

ORDER = ("émeu", "horse", "dog", "cat")  # no picture is of a horse


def class_of(key: str) -> str:
    return key.partition("/")[0]


def test_classes_are_counted_as_asked_whether_they_have_samples_or_not(pictures: Path, tmp_path: Path) -> None:
    assert main(["shards", "build", str(pictures), str(tmp_path / "out"), "--classes", *ORDER]) == 0
    dataset, own = Dataset.open(tmp_path / "out"), build(pictures, tmp_path / "own")
    assert dataset.classes == ORDER and own.classes == ("cat", "dog", "émeu")
    assert dataset.keys == own.keys and dataset.fingerprint != own.fingerprint
    assert [ORDER[label] for label in dataset.labels] == [class_of(key) for key in dataset.keys]
    assert verify(dataset.path) == []
    forget, remain = split(dataset, tmp_path / "sets", ["dog"])
    assert {class_of(key) for key in forget.keys} == {"dog"} and set(forget.labels) == {2}
    assert remain.classes == ORDER


def test_classes_of_a_table_and_in_a_file(pictures: Path, tmp_path: Path) -> None:
    (pictures / "t.jsonl").write_text('{"path": "cat/0.png", "label": "b"}\n{"path": "dog/0.png"}\n')
    for name, text in (("names.txt", "c\nb\n"), ("list.json", '["c", "b"]'), ("map.json", '{"1": "b", "0": "c"}')):
        (tmp_path / name).write_text(text)
        dataset = build(pictures / "t.jsonl", tmp_path / f"of-{name}", classes=[str(tmp_path / name)])
        assert dataset.classes == ("c", "b")
        assert {dataset.key(i): dataset.read(i).label for i in range(2)} == {"cat/0": 1, "dog/0": None}
        seen = dataset.relabelled(("b", "c"), np.array([1, 0]))
        assert {seen.key(i): seen.read(i).label for i in range(2)} == {"cat/0": 0, "dog/0": None}
        told = seen.captioned("an image of {}")
        for one in (told, told.only(np.array([True, True])), dataset.captioned("an image of {}")):
            assert {one.key(i): one.text(i) for i in range(2)} == {"cat/0": "an image of b", "dog/0": ""}
        texts = Stream(told, seed=0, batch_size=2, image_size=4).batch(0)
        assert dict(zip(texts.keys, texts.texts, strict=True)) == {"cat/0": "an image of b", "dog/0": ""}


def test_numbers_in_tars_get_names(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    with ShardWriter(f"{tmp_path}/tars/%05d.tar", verbose=0) as writer:
        for i in range(4):
            writer.write({"__key__": f"s{i}", "npy": np.zeros(2, np.float32), "cls": i})
    assert build(tmp_path / "tars", tmp_path / "out", classes=["a", "b", "c", "d", "e"]).classes == tuple("abcde")
    with pytest.raises(DataError, match="3 names, and tars has a sample of number 3"):
        build(tmp_path / "tars", tmp_path / "short", classes=["a", "b", "c"])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", "dog"], "classes: pictures has émeu, which is not among them"),
        (["cat", "dog", "cat", "émeu"], "classes: cat given twice"),
        (["cat", "dog", "émeu", ""], "classes: an empty name"),
        ({"0": "cat", "2": "dog"}, r"2 classes, and none of number 1; number them from 0"),
        ([1, 2], "not a list of names"),
    ],
)
def test_classes_that_cannot_be(pictures: Path, tmp_path: Path, classes: object, message: str) -> None:
    words = classes
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        (tmp_path / "classes.json").write_text(json.dumps(classes))
        words = [str(tmp_path / "classes.json")]
    with pytest.raises(DataError, match=message):
        build(pictures, tmp_path / "out", classes=words)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "out").exists()


def test_a_number_that_two_classes_have(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('{"0": "cat", "1": "dog", "1": "wolf"}')
    with pytest.raises(DataError, match=r"classes\.json': cannot be read \('1' is there twice; write one of them\)"):
        build(pictures, tmp_path / "out", classes=[str(tmp_path / "classes.json")])


def test_a_reader_may_count_classes_otherwise(pictures: Path, tmp_path: Path) -> None:
    dataset = build(pictures, tmp_path / "data")
    # émeu is nobody's class there
    seen = dataset.relabelled(("dog", "horse", "cat"), np.array([2, 0, -1]))
    expected = [{"cat": 2, "dog": 0, "émeu": -1}[class_of(key)] for key in dataset.keys]
    assert seen.labels.tolist() == expected
    assert [-1 if (label := seen.read(i).label) is None else label for i in range(len(seen))] == expected
    batch = Stream(seen, seed=0, batch_size=30, image_size=8, channels=1).batch(0)
    assert batch.labels.tolist() == [expected[dataset.keys.index(key)] for key in batch.keys]
    dogs = seen.only(seen.labels == 0)
    assert {class_of(key) for key in dogs.keys} == {"dog"} and set(dogs.labels) == {0}
    assert Stream(dogs, seed=0, batch_size=3, image_size=8, channels=1).batch(0).labels.tolist() == [0, 0, 0]
    # what is written down keeps the labels that the shards hold
    forget, _ = split(seen, tmp_path / "sets", request=None, forget_labels=["dog"])
    assert forget.classes == dataset.classes and {class_of(key) for key in forget.keys} == {"dog"}
