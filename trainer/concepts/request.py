"""An erasure request of prompts alone: the words to forget, what must stay, and how both are asked for.

concept = ["three"]
remain = ["zero", "one", "two"]
phrasings = ["a red {}", "the digit {} in blue"]
held_out_phrasings = ["a picture of the number {}"]
anchor = ["zero", "one"]
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import itertools
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ...shards import strict_json
from ...shards.errors import is_unicode, shorten
from ..config import GenerateConfig
from ..errors import ConfigError
from ..models.conditions import as_told
from ..objectives.targets.rl import holds_one_of, in_place_of

_FIELDS = "concept, remain, phrasings, held_out_phrasings, anchor, id, date and reason"


@dataclass(frozen=True)
class ConceptPrompt:
    """What is asked for."""

    prompt: str
    of_class: str
    """What the picture counts as: the concept's first word, or the word that stays."""
    phrasing: str
    is_forgotten: bool


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class ConceptRequest:
    """The whole of a request file."""

    concept: str | tuple[str, ...]
    """Words that mean what is to be forgotten; the first is what it is called."""
    remain: str | tuple[str, ...] = ()
    """Words that must stay, each a class of its own; none given: the anchors."""
    phrasings: tuple[str, ...] = ("{}",)
    """Prompts, {} standing for a word: each is asked with every word."""
    held_out_phrasings: tuple[str, ...] = ()
    """More of them that nothing is trained on: the evaluation alone asks them."""
    anchor: str | tuple[str, ...] | None = None
    """c_m: the prompt with this in the concept's place, of several one drawn per sample; '' the null prompt; none: a
    prompt that stays."""
    id: str = ""
    date: datetime.date | None = None
    reason: str = ""
    name: str = field(default="request", kw_only=True)
    """What messages call it: the file's path."""

    @property
    def words(self) -> tuple[str, ...]:
        return _several(self.concept)

    @property
    def remaining(self) -> tuple[str, ...]:
        return _several(self.remain) or tuple(anchor for anchor in self.anchors if anchor)

    @property
    def anchors(self) -> tuple[str, ...]:
        return () if self.anchor is None else _several(self.anchor)

    def classes(self, known: Sequence[str], option: str) -> tuple[str, ...]:
        """What pictures count as: the concept, then what stays, or `known`, as `option` gives them.

        Raises ConfigError where these have not all.
        """
        own = (self.words[0], *self.remaining)
        missing = [name for name in own if name not in known] if known else []
        if missing:
            raise ConfigError(f"{option} has no {shorten(missing)}, for which {self.name} asks: name it, too")
        return tuple(known) or own

    def prompts(self, phrasings: Sequence[str]) -> list[ConceptPrompt]:
        """Each with every word, words going round fastest; the concept's first."""
        return [
            ConceptPrompt(phrasing.replace("{}", word), self.words[0] if forgotten else word, phrasing, forgotten)
            for words, forgotten in ((self.words, True), (self.remaining, False))
            for phrasing in phrasings
            for word in words
        ]

    def describe(self, generate: GenerateConfig) -> list[str]:
        """What will be drawn, in lines."""
        prompts = self.prompts(self.phrasings)
        asked = {side: [one.prompt for one in prompts if one.is_forgotten == side] for side in (True, False)}
        return [
            f"{name:<12}{count:,} pictures to be drawn, by {len(asked[side]):,} prompts: {shorten(asked[side])}"
            for name, count, side in (
                ("forget", generate.num_forget_images, True),
                ("remain", generate.num_remain_images, False),
            )
        ]

    def write_prompts(self, path: Path) -> None:
        """What an evaluation asks for: every phrasing with every word, those that nothing is trained on, too."""
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["prompt", "class", "phrasing"])
            for one in self.prompts((*self.phrasings, *self.held_out_phrasings)):
                table.writerow([one.prompt, one.of_class, one.phrasing])

    def plain(self) -> dict[str, Any]:
        """In JSON's types, without the file's name."""
        values = dataclasses.asdict(self)
        del values["name"]
        return json.loads(json.dumps(values, default=str))


def is_concept_request(path: Path) -> bool:
    """Whether a request file names a concept; a file that cannot be read does not."""
    try:
        return "concept" in _fields(path)
    except ConfigError:
        return False


def read_concept_request(path: Path) -> ConceptRequest:
    """Raises ConfigError for a file that is no such request, and for words that do not go together."""
    try:
        request = TypeAdapter(ConceptRequest).validate_python(_fields(path) | {"name": str(path)})
    except ValidationError as error:
        first = min(error.errors(), key=lambda found: found["type"] == "missing")
        place = ".".join(str(part) for part in first["loc"] if part not in ("str", "tuple[str, ...]"))
        raise ConfigError(f"{path}: {place}: {first['msg']}; a request of prompts has {_FIELDS}") from None
    for problem in _problems(request):
        raise ConfigError(f"{path}: {problem}")
    return request


def _fields(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        fields = strict_json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    # a thousand nested brackets are a RecursionError in both parsers
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a .toml or .json request") from None
    if not isinstance(fields, dict) or "name" in fields:
        raise ConfigError(f"{path}: a request of prompts has {_FIELDS}")
    # pydantic takes lists for tuples from JSON alone
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _problems(request: ConceptRequest) -> Iterator[str]:
    phrasings = (*request.phrasings, *request.held_out_phrasings)
    texts = (*request.words, *request.remaining, *request.anchors, *phrasings, request.id, request.reason)
    if not all(is_unicode(text) for text in texts):
        yield "half a character (\\ud800 to \\udfff alone) in a text; write it again in UTF-8"
    for name, words in (("concept", request.words), ("remain", request.remaining), ("phrasings", request.phrasings)):
        if not words or not all(word.strip() for word in words):
            yield f"{name}: at least one word is needed, and none may be empty"
    for text in (*request.words, *request.remaining, *request.anchors, *phrasings):
        if text != text.strip():
            yield f"{text!r}: leave out the spaces around it"
    for phrasing in phrasings:
        if "{}" not in phrasing:
            yield f"phrasings: {phrasing!r} has no {{}} for a word"
    prompts = request.prompts(phrasings)
    seen: dict[str, str] = {}
    for one in prompts:
        known = seen.setdefault(as_told(one.prompt), one.of_class)
        if known != one.of_class:
            yield f"{one.prompt!r} asks for {known!r} and for {one.of_class!r}: name a word once"
    if len(seen) < len(prompts):
        yield "a prompt is there twice: name each word and each phrasing once"
    yield from _problems_of_anchors(request)


def _problems_of_anchors(request: ConceptRequest) -> Iterator[str]:
    if request.anchor == () or ("" in request.anchors and len(request.anchors) > 1):
        yield "anchor: name words, or '' alone for the null prompt; leave it out to have c_m drawn among what stays"
    for anchor in request.anchors:
        if holds_one_of(request.words, anchor):
            yield f"anchor: {anchor!r} holds the concept itself: name another word"
        for phrasing, word in itertools.product(request.phrasings, request.words if anchor else ()):
            prompt, meant = phrasing.replace("{}", word), phrasing.replace("{}", anchor)
            if in_place_of(request.words, prompt, anchor) != meant:
                yield (
                    f"phrasings: {phrasing!r}: an anchor takes the concept's place where it stands as a word by "
                    f"itself: {prompt!r} does not become {meant!r}"
                )


def _several(words: str | tuple[str, ...]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else words
