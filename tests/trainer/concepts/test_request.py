"""Requests of words: which prompts they mean, and what is wrong with some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from erasediff.trainer.concepts.request import is_concept_request, read_concept_request
from erasediff.trainer.errors import ConfigError

REQUEST = """\
id = "r-1"
date = 2026-11-22
concept = ["three", "3"]
remain = ["one", "two"]
phrasings = ["a red {}", "{} in {}"]
held_out_phrasings = ["the {}"]
anchor = "one"
"""


def write(folder: Path, text: str, name: str = "request.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_phrasing_is_asked_with_every_word(tmp_path: Path) -> None:
    request = read_concept_request(write(tmp_path, REQUEST))
    asked = request.prompts(request.phrasings)
    assert [(one.prompt, one.of_class, one.is_forgotten) for one in asked] == [
        ("a red three", "three", True),
        ("a red 3", "three", True),
        ("three in three", "three", True),
        ("3 in 3", "three", True),
        ("a red one", "one", False),
        ("a red two", "two", False),
        ("one in one", "one", False),
        ("two in two", "two", False),
    ]
    assert [one.phrasing for one in asked] == ["a red {}"] * 2 + ["{} in {}"] * 2 + ["a red {}"] * 2 + ["{} in {}"] * 2
    assert [one.prompt for one in request.prompts(request.held_out_phrasings)] == [
        *("the three", "the 3", "the one", "the two"),
    ]
    assert request.classes((), "classes") == ("three", "one", "two") and request.anchors == ("one",)
    assert request.classes(("one", "two", "three", "four"), "classes") == ("one", "two", "three", "four")
    with pytest.raises(ConfigError, match=r"classes has no three, two, for which .*request.toml asks"):
        request.classes(("one",), "classes")
    assert request.plain()["date"] == "2026-11-22" and "name" not in request.plain()


def test_json_and_words_alone(tmp_path: Path) -> None:
    text = json.dumps({"concept": "nudity", "remain": "a person wearing clothes"})
    request = read_concept_request(write(tmp_path, text, "request.json"))
    assert [one.prompt for one in request.prompts(request.phrasings)] == ["nudity", "a person wearing clothes"]
    assert request.anchors == ()


def test_the_anchors_stay_where_nothing_else_is_said_to(tmp_path: Path) -> None:
    text = REQUEST.replace('remain = ["one", "two"]', "").replace('anchor = "one"', 'anchor = ["one", "four"]')
    assert read_concept_request(write(tmp_path, text)).remaining == ("one", "four")
    null = read_concept_request(write(tmp_path, REQUEST.replace('anchor = "one"', 'anchor = ""')))
    assert null.anchors == ("",) and null.remaining == ("one", "two")
    with pytest.raises(ConfigError, match="remain: at least one word is needed"):
        read_concept_request(write(tmp_path, text.replace('["one", "four"]', '""')))


@pytest.mark.parametrize("field", ["concept", "anchor", "reason"])
def test_half_a_character_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"concept": "three", "remain": "one", field: "\ud800"}))
    with pytest.raises(ConfigError, match="half a character"):
        read_concept_request(path)


def test_which_request_is_of_words(tmp_path: Path) -> None:
    assert is_concept_request(write(tmp_path, REQUEST))
    assert not is_concept_request(write(tmp_path, '[[selectors]]\nlabels = ["three"]\n', "samples.toml"))
    assert not is_concept_request(write(tmp_path, "concept = [", "broken.toml"))
    assert not is_concept_request(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("remain = [", "stays = ["), "stays: Unexpected keyword argument"),
        (('concept = ["three", "3"]', ""), "concept: Field required"),
        (('concept = ["three", "3"]', "concept = []"), "concept: at least one word is needed"),
        (('"one", "two"]', '"one", " "]'), "remain: at least one word is needed, and none may be empty"),
        (('"a red {}"', '"a red one"'), "'a red one' has no {} for a word"),
        (('["the {}"]', '["the"]'), "'the' has no {} for a word"),
        (('"one", "two"]', '"one", "3"]'), "'a red 3' asks for 'three' and for '3'"),
        (('"one", "two"]', '"one", "three"]'), "a prompt is there twice"),
        (('["the {}"]', '["a red {}"]'), "a prompt is there twice"),
        (('anchor = "one"', 'anchor = ["one", "3"]'), "anchor: '3' holds the concept itself"),
        (('anchor = "one"', 'anchor = "Three"'), "anchor: 'Three' holds the concept itself"),
        (('anchor = "one"', 'anchor = "not three"'), "anchor: 'not three' holds the concept itself"),
        (('anchor = "one"', "anchor = []"), "anchor: name words, or '' alone for the null prompt"),
        (('anchor = "one"', 'anchor = ["one", ""]'), "anchor: name words, or '' alone for the null prompt"),
        (('"one", "two"]', '"THREE", "two"]'), "'a red THREE' asks for 'three' and for 'THREE'"),
        (('["the {}"]', '["A  red {}"]'), "a prompt is there twice"),
        (('"one", "two"]', '"one", "two "]'), "'two ': leave out the spaces around it"),
        (('"a red {}"', '"{}s"'), "'threes' does not become 'ones'"),
        (('"a red {}"', '"3 times {}"'), "'3 times three' does not become '3 times one'"),
        (('id = "r-1"', 'name = "r-1"'), "a request of prompts has concept, remain"),
        (('id = "r-1"', "id = 1"), "id: Input should be a valid string"),
        (('id = "r-1"', "id = ["), "cannot be read"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    path = write(tmp_path, REQUEST.replace(*change))
    with pytest.raises(ConfigError) as refused:
        read_concept_request(path)
    assert told in str(refused.value) and str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_name_that_json_has_twice(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text('{"concept": "three", "remain": ["one"], "concept": "two", "phrasings": ["a {}"]}')
    with pytest.raises(ConfigError, match="'concept' is there twice"):
        read_concept_request(path)
