"""A tokenizer made from captions: one token a word, loaded without erasediff, and no word taken for another."""

from __future__ import annotations

import json
import random
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from erasediff.shards.sources.digits_in_ink import HELD_OUT_PHRASING, prompts
from erasediff.trainer.models.families.stable_diffusion import tokens_of
from erasediff.trainer.models.prompts import PromptConditions
from erasediff.trainer.models.text_to_image.tokenizer import (
    known_words,
    make_tokenizer,
    split_into_words,
    tokens_of_words,
    unknown_words,
    words_of,
)
from transformers import CLIPTokenizer

# words within words, one with a letter of two bytes, punctuation and a digit by itself
TEXTS = ["A ten, tent and ents", "the nett teen's 7th Éclair", "a tee", "net"]
WORDS = ("'s", ",", "7", "a", "and", "ents", "net", "nett", "tee", "teen", "ten", "tent", "th", "the", "éclair")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tokenizer"
    make_tokenizer(words_of(TEXTS), folder, num_tokens=9)
    return folder


def test_words_are_those_clip_takes_a_text_apart_into() -> None:
    assert words_of(TEXTS) == WORDS
    assert words_of(reversed([*TEXTS, *TEXTS])) == words_of(WORDS) == WORDS
    assert split_into_words(TEXTS[1]) == ["the", "nett", "teen", "'s", "7", "th", "éclair"]


def test_each_word_is_one_token_and_comes_back(made: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(made)
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert len(ids) == 2 + len(split_into_words(text))
    assert len({tuple(tokenizer(word).input_ids) for word in WORDS}) == len(WORDS)
    assert tokenizer.decode(tokenizer("The  tent AND éclair").input_ids, skip_special_tokens=True) == (
        "the tent and éclair"
    )
    padded = tokenizer("a ten", padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids
    assert len(padded) == 9 and padded[4:] == [tokenizer.eos_token_id] * 5


def test_many_words_of_few_letters(tmp_path: Path) -> None:
    """Where merges of one word fit into many others."""
    draw = random.Random(0)
    words = sorted({"".join(draw.choices("abc", k=draw.randint(1, 9))) for _ in range(400)})
    tokenizer = make_tokenizer(words, tmp_path, num_tokens=8)
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    assert all(len(found) == 1 for found in ids) and len({found[0] for found in ids}) == len(words)


def test_a_word_it_does_not_know_is_named(made: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(made)
    # "te", "e" and "t" are pieces of words, and no words
    assert unknown_words(tokenizer, "a TEN te, e three éclair t 8") == ["te", "e", "three", "t", "8"]
    assert known_words(tokenizer) == frozenset(WORDS)
    again = made.parent / "again"
    tokenizer.save_pretrained(again)
    assert known_words(CLIPTokenizer.from_pretrained(again)) == frozenset(WORDS)


def test_clips_own_spells_any_text(tmp_path: Path) -> None:
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase)]
    plain = CLIPTokenizer(vocab={token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])})
    plain.save_pretrained(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert known_words(tokenizer) is None and unknown_words(tokenizer, "whatever") == []


def test_threads_share_one_and_read_what_one_thread_reads(tmp_path: Path) -> None:
    """A fast tokenizer holds padding and truncation from call to call."""
    tokenizer = make_tokenizer(words_of(prompt.text for prompt in prompts()), tmp_path, num_tokens=12)
    texts = [prompt.text for prompt in prompts()]
    encoder: Any = SimpleNamespace(config=SimpleNamespace())
    reads: list[Callable[[str], Any]] = [
        lambda text: tokens_of(tokenizer, encoder, text, torch.device("cpu"))["input_ids"].tolist(),
        lambda text: tokens_of_words(tokenizer, text, ("three", "red"), with_end=True).tolist(),
        lambda text: PromptConditions([tokenizer], truncates=False).parse(text, "it"),
        lambda text: unknown_words(tokenizer, text),
    ]
    expected = [[read(text) for text in texts] for read in reads]
    with ThreadPoolExecutor(len(reads)) as pool:
        found = [*pool.map(lambda read: [read(text) for _ in range(4) for text in texts], reads)]
    assert found == [each * 4 for each in expected]


def test_the_held_out_phrasing_is_of_known_words(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(words_of(prompt.text for prompt in prompts()), tmp_path, num_tokens=12)
    for prompt in prompts([HELD_OUT_PHRASING]):
        assert unknown_words(tokenizer, prompt.text) == []
        assert len(tokenizer(prompt.text).input_ids) <= 12


@pytest.mark.parametrize("left_out", ["tokenizer.json", "vocab.json"])
def test_it_loads_without_erasediff(made: Path, tmp_path: Path, left_out: str) -> None:
    """From what transformers writes today, and from CLIP's own two files."""
    shutil.copytree(made, tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / left_out).unlink()
    code = (
        "import json, sys; from transformers import CLIPTokenizer; found = CLIPTokenizer.from_pretrained('tokenizer'); "
        "assert not any(name.startswith('erasediff') for name in sys.modules); "
        "print(json.dumps([found('a Ten, tent and éclair').input_ids, found.model_max_length]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    here = CLIPTokenizer.from_pretrained(made)
    assert json.loads(done.stdout) == [here("a Ten, tent and éclair").input_ids, 9]
