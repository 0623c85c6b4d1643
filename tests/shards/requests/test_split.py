"""Split: disjoint, complete, and without rewriting what remains."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import DataError, Dataset, build, check_disjoint, split
from PIL import Image


def test_digit_three(digits: Dataset, tmp_path: Path) -> None:
    forget, remain = split(digits, tmp_path / "three", ["3"])
    assert set(forget.labels) == {3}
    assert 3 not in remain.labels
    assert sorted(forget.keys + remain.keys) == digits.keys
    assert forget.classes == remain.classes == digits.classes
    # remain has an index and no shard of its own
    assert sorted(file.name for file in remain.path.iterdir()) == ["README.md", "dataset.json", "index.npy"]
    by_key = {key: i for i, key in enumerate(digits.keys)}
    for part in (forget, remain):
        for i in range(0, len(part), 40):
            original = digits.read(by_key[part.keys[i]])
            np.testing.assert_array_equal(part.read(i).image, original.image)
            assert part.read(i).label == original.label
    check_disjoint(forget, remain)
    with pytest.raises(DataError, match=r"three: no dataset\.json in it; give .*three/forget or .*three/remain"):
        Dataset.open(tmp_path / "three")
    with pytest.raises(DataError, match=r"share keys: .*and 178 more"):
        check_disjoint(forget, digits)


def test_labels_by_name_or_position(pictures: Path, tmp_path: Path) -> None:
    dataset = build(pictures, tmp_path / "pets")
    assert len(split(dataset, tmp_path / "a", ["cat", "émeu"])[0]) == 6
    assert len(split(dataset, tmp_path / "b", [1])[0]) == 3


def test_a_spelling_that_may_be_either_of_two_classes_is_neither(tmp_path: Path) -> None:
    composed, decomposed = "Zo\u00e9 No\u00e9", "Zoe\u0301 Noe\u0301"
    for value, name in enumerate((composed, decomposed)):
        (tmp_path / "people" / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / "people" / name / "0.png")
    dataset = build(tmp_path / "people", tmp_path / "data")
    assert [len(split(dataset, tmp_path / f"{i}", [dataset.classes[i]])[0]) for i in (0, 1)] == [1, 1]
    with pytest.raises(DataError, match="no such class in"):
        split(dataset, tmp_path / "third", ["Zo\u00e9 Noe\u0301"])


def test_remain_can_be_moved_together_with_its_shards(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    build(pictures, tmp_path / "data" / "pets")
    split(tmp_path / "data" / "pets", tmp_path / "data" / "cut", ["dog"])
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    remain = Dataset.open(tmp_path / "elsewhere" / "cut" / "remain")
    assert remain.read(0).label in (0, 2)
    shutil.rmtree(tmp_path / "elsewhere" / "pets")
    with pytest.raises(DataError, match="shard missing"):
        Dataset.open(tmp_path / "elsewhere" / "cut" / "remain")


def test_split_of_a_split(pictures: Path, tmp_path: Path) -> None:
    build(pictures, tmp_path / "pets")
    _, remain = split(tmp_path / "pets", tmp_path / "first", ["dog"])
    forget, remain = split(remain, tmp_path / "second", ["cat"])
    assert set(forget.labels) == {0}
    assert set(remain.labels) == {2}
    assert remain.read(1).key.startswith("émeu/")


def test_identical_bytes_on_both_sides_are_named(pictures: Path, tmp_path: Path) -> None:
    shutil.copy(pictures / "cat" / "0.png", pictures / "dog" / "twin.png")
    dataset = build(pictures, tmp_path / "pets")
    with pytest.raises(DataError, match="cat/0 = dog/twin"):
        split(dataset, tmp_path / "out", ["cat"])
    assert not (tmp_path / "out").exists()
    # on one side it is no overlap
    forget, remain = split(dataset, tmp_path / "out", ["cat", "dog"])
    check_disjoint(forget, remain)


def test_check_disjoint_compares_content_too(pictures: Path, tmp_path: Path) -> None:
    one = build(pictures, tmp_path / "one")
    (pictures / "cat").rename(pictures / "tiger")
    other, _ = split(build(pictures, tmp_path / "two"), tmp_path / "cut", ["tiger"])
    with pytest.raises(DataError, match=r"share identical images: .*(cat/0 = tiger/0|tiger/0 = cat/0)"):
        check_disjoint(one, other)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["11"], "--forget-label: label 11: no such class.*classes: 0, 1, 2"),
        (["three"], "--forget-label: label three: no such class"),
        (list("0123456789"), "all 1,797 samples would be forgotten, none remain; forget fewer"),
        ([], "at least one label"),
    ],
)
def test_mistakes(digits: Dataset, tmp_path: Path, labels: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(digits, tmp_path / "out", labels)
    assert not list(tmp_path.iterdir())


def test_nothing_remains_beside_what_is_left_out(digits: Dataset, tmp_path: Path) -> None:
    nines = digits.labels == 9
    expected = f"would be forgotten, but for {nines.sum()} that are left out, none remain"
    with pytest.raises(DataError, match=expected):
        split(digits, tmp_path / "out", list("012345678"), left_out=nines)


def test_label_that_no_sample_has(digits: Dataset, tmp_path: Path) -> None:
    _, remain = split(digits, tmp_path / "out", ["3"])
    with pytest.raises(DataError, match="--forget-label: label 3: no sample"):
        split(remain, tmp_path / "again", ["3"])


def test_existing_output(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        split(digits, tmp_path, ["3"])
