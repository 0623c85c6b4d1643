"""A CLIP tokenizer of whole words, made from captions: how a text-to-image model made from nothing reads."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from transformers import CLIPTokenizer

_TOKENIZING = threading.Lock()
_END_OF_WORD = "</w>"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
# in tokenizer_config.json, of a tokenizer that knows these words and no others
_WORDS = "whole_words"


def tokenize(tokenizer: Any, texts: str | list[str], **how: Any) -> Any:
    """What a tokenizer makes of texts.

    One call at a time: a fast tokenizer holds padding and truncation from call to call, and the threads that read
    samples ahead share it.
    """
    with _TOKENIZING:
        return tokenizer(texts, **how)


def words_of(captions: Iterable[str]) -> tuple[str, ...]:
    """Each word once, ascending, as CLIP takes a text apart: in lower case, digits and punctuation by themselves."""
    return tuple(sorted({word for caption in set(captions) for word in split_into_words(caption)}))


def split_into_words(text: str) -> list[str]:
    """In their order, as `words_of` counts them."""
    return [word for word, _ in _taken_apart(_clip(), text)]


def make_tokenizer(words: Sequence[str], folder: Path, *, num_tokens: int) -> CLIPTokenizer:
    """Writes a tokenizer with one token for each of these words, which are as `words_of` gives them.

    num_tokens: of a prompt, its beginning and end among them; longer ones are cut, shorter ones padded. `folder` gets
    vocab.json and merges.txt, as CLIP's own has them, beside what transformers writes today.
    """
    spelled = [letters for word in words for _, letters in _taken_apart(_clip(), word)]
    # a merge that comes last changes nothing for words that are whole already
    merges: dict[tuple[str, str], int] = {}
    for letters in spelled:
        while len(pieces := _merged(letters, merges)) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
    tokens = {_merged(letters, merges)[0]: None for letters in spelled}
    tokens |= dict.fromkeys(part for pair in merges for part in (*pair, "".join(pair)))
    vocabulary = {token: i for i, token in enumerate([*tokens, *_SPECIAL])}
    settings: dict[str, Any] = {"merges": [*merges], "model_max_length": num_tokens, _WORDS: sorted(words)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, **settings)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tokenizer


def known_words(tokenizer: CLIPTokenizer) -> frozenset[str] | None:
    """The words of a tokenizer that knows no others; None for one that spells any text, as CLIP's own does."""
    words = tokenizer.init_kwargs.get(_WORDS)
    return None if words is None else frozenset(words)


def unknown_words(tokenizer: CLIPTokenizer, text: str) -> list[str]:
    """Those of a text that the tokenizer would put together from pieces which no caption ever had."""
    known = known_words(tokenizer)
    return [] if known is None else [word for word in split_into_words(text) if word not in known]


def vocabulary_of(tokenizer: CLIPTokenizer) -> str:
    """SHA-256 (hex) of how it cuts text into tokens."""
    how = json.loads(tokenizer.backend_tokenizer.to_str())
    # these are of the last call
    del how["truncation"], how["padding"]
    return hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()


def tokens_of_words(tokenizer: Any, prompt: str, words: Sequence[str], *, with_end: bool) -> np.ndarray:
    """Which tokens of a prompt are of one of the words, bool [tokens a model takes]; none: it holds none of them.

    A word counts where it stands by itself, in upper or lower case. with_end: and, where there is one, the token that
    ends the prompt.
    """
    ids = tokenize(tokenizer, prompt, truncation=True, max_length=tokenizer.model_max_length).input_ids
    texts, marks = tokenizer.convert_ids_to_tokens(ids), np.zeros(tokenizer.model_max_length, dtype=bool)
    for sought in (tokenize(tokenizer, word, add_special_tokens=False).input_ids for word in words):
        # one token begins a prompt, and one ends it
        for first in range(1, len(ids) - len(sought)):
            begins = first == 1 or texts[first - 1].endswith(_END_OF_WORD)
            if begins and ids[first : first + len(sought)] == sought:
                marks[first : first + len(sought)] = True
    marks[len(ids) - 1] = with_end and marks.any()
    return marks


@cache
def _clip() -> CLIPTokenizer:
    """One without a vocabulary: it takes texts apart as all of them do."""
    return CLIPTokenizer()


def _taken_apart(tokenizer: CLIPTokenizer, text: str) -> list[tuple[str, str]]:
    """Its words, and each in the letters that stand for bytes."""
    backend = tokenizer.backend_tokenizer
    assert backend.normalizer is not None and backend.pre_tokenizer is not None
    normal = backend.normalizer.normalize_str(text)
    return [(normal[start:stop], letters) for letters, (start, stop) in backend.pre_tokenizer.pre_tokenize_str(normal)]


def _merged(letters: str, merges: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word (arXiv 1508.07909): the earliest merge first, wherever it fits."""
    pieces = [*letters[:-1], letters[-1] + _END_OF_WORD]
    while ranks := [merges[pair] for pair in pairwise(pieces) if pair in merges]:
        first, joined = min(ranks), []
        for piece in pieces:
            if joined and merges.get((joined[-1], piece)) == first:
                joined[-1] += piece
            else:
                joined.append(piece)
        pieces = joined
    return pieces
