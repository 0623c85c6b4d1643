"""Prompts that must go on as before: none that asks for what is forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from erasediff.shards import Dataset
from erasediff.trainer.errors import ConfigError
from prompt_cases import evaluate_by_prompts, make_scrub, write_prompts


@pytest.fixture(scope="module")
def scrubbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scrub(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([["a red one"]], ("text",), "has no column 'prompt'"),
        ([["a red one"], ["a red two"]], ("prompt",), "holds 'a red two', which asks for what is forgotten"),
        ([["a red one"], ["A red  Two"]], ("prompt",), "holds 'A red  Two', which asks for what is forgotten"),
        ([["a 2"]], ("caption",), "the model's tokenizer does not know '2'"),
    ],
)
def test_prompts_that_cannot_be_kept(
    scrubbed: Path, tmp_path: Path, rows: list[Any], columns: tuple[str, ...], said: str
) -> None:
    write_prompts(tmp_path / "kept.csv", rows, columns)
    with pytest.raises(ConfigError, match=rf"judge\.kept_prompts = .*{said}"):
        evaluate_by_prompts(scrubbed, kept_prompts=str(tmp_path / "kept.csv"))


def test_captions_that_are_forgotten_cannot_be_kept(scrubbed: Path, tmp_path: Path) -> None:
    """Without a file of prompts, what asks for the forgotten are its captions."""
    caption = Dataset.open(scrubbed / "split" / "forget").text(0)
    write_prompts(tmp_path / "kept.csv", [[caption.upper()]], ("prompt",))
    with pytest.raises(ConfigError, match=f"holds '{caption.upper()}', which asks for what is forgotten"):
        evaluate_by_prompts(scrubbed, prompts=None, kept_prompts=str(tmp_path / "kept.csv"))
