"""What compare_text.py asks for: a word of its own for the search, and who is told which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmark_modules import BENCHMARKS, load
from erasediff.shards.requests.split import FORGET_NAME, REMAIN_NAME
from erasediff.trainer.comparing.cases import cases_of

for needed in ("rows", "compared"):
    load(needed)
TEXT = load("compare_text")


def test_a_word_is_searched_on_another_one_than_the_table_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(BENCHMARKS).parent)
    options = TEXT.Options()
    table, search = TEXT.table_config(options), TEXT.search_config(options)
    assert (table.seeds, search.seeds) == ((0, 1, 2), (100,))
    assert table.judge.retrained is not None and table.judge.attacks == ("inversion", "prompt")
    sets = {word: (config.forget, config.remain) for word, config in (("three", table), ("six", search))}
    assert sets["six"] == tuple(f"build/compare-text/split-six/{name}" for name in (FORGET_NAME, REMAIN_NAME))
    assert sets["three"] == tuple(f"demo-text/erased/split/{name}" for name in (FORGET_NAME, REMAIN_NAME))
    for word, other, config in (("three", "four", table), ("six", "seven", search)):
        told = {case.name.partition(" #")[0]: words_of(case.config.method) for case in cases_of(config)}
        both = ("erasediff, envelope", "erasediff, value", "meta_erasediff", "moo")
        both += ("restricted_gradient", "munba", "salun")
        assert told == dict.fromkeys(both, ((word,), other)) | {
            "erasediff, null prompt": ((), ""),
            "forget_me_not": ((word,), None),
            "esd": ((), None),
            **dict.fromkeys(("neggrad", "blindspot", "finetune"), (None, None)),
        }
        assert all(case.config.train.layers == ("xattn",) for case in cases_of(config))


def words_of(method: Any) -> tuple[Any, Any]:
    return getattr(method, "concept", None), getattr(method, "anchor", None)
