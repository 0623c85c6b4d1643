"""Conditions that are prompts, held to what the model's tokenizers can say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...shards.dataset import Dataset
from ...shards.streaming.stream import SampleBatch
from ..errors import ConfigError
from .conditions import Condition, distinct
from .text_to_image.tokenizer import tokenize, unknown_words


class PromptConditions:
    """A sample's caption; the empty prompt stands for none."""

    kind = "a prompt"
    is_unconditional = False
    asks_for_classes = True
    has_null = True
    null: Condition = ""
    num_classes = 0

    def __init__(self, tokenizers: Sequence[Any], *, truncates: bool = False):
        """tokenizers: transformers'; each reads every prompt. truncates: what is too long is cut, not refused."""
        self._tokenizers = tokenizers
        self._truncates = truncates

    def of_samples(self, samples: SampleBatch) -> list[Condition]:
        return [*samples.texts]

    def of_dataset(self, data: Dataset, rows: np.ndarray | None = None) -> list[Condition]:
        return [*data.captions] if rows is None else [data.captions[i] for i in np.flatnonzero(rows)]

    def of_class(self, label: int, data: Dataset) -> list[Condition]:
        return distinct(self.of_dataset(data, data.labels == label))

    def parse(self, given: int | str, option: str) -> Condition:
        if not isinstance(given, str):
            raise ConfigError(f"{option} = {given!r}: the model is told prompts, not numbers: give a prompt")
        self._check({given: f"{option} = {given!r}"})
        return given

    def known(self) -> list[Condition]:
        return [self.null]

    def check(self, data: Dataset) -> None:
        first: dict[str, int] = {}
        for i, caption in enumerate(data.captions):
            first.setdefault(caption, i)
        if "" in first:
            raise ConfigError(
                f"{data.path}: sample {data.key(first[''])} has no caption, and the model is told prompts: build the "
                "dataset with captions, or set model.caption to make them of class names, such as 'an image of {}'"
            )
        self._check({text: f"{data.path}: the caption of sample {data.key(i)}" for text, i in first.items()})

    def _check(self, prompts: dict[str, str]) -> None:
        """Raises ConfigError for a prompt that a tokenizer cannot read whole; prompts: and how each is called."""
        for tokenizer in self._tokenizers:
            tokens = tokenize(tokenizer, [*prompts], add_special_tokens=False, verbose=False).input_ids
            for (prompt, name), found in zip(prompts.items(), tokens, strict=True):
                if unknown := _unknown(prompt, found, tokenizer):
                    raise ConfigError(f"{name}: the model's tokenizer does not know {unknown}")
                # one token begins a prompt, and one ends it
                room = tokenizer.model_max_length - 2
                if len(found) > room and not self._truncates:
                    raise ConfigError(
                        f"{name} has {len(found)} tokens, the model takes {room}: shorten it, or set "
                        "model.truncate_prompts to have what is too long cut"
                    )


def _unknown(prompt: str, tokens: list[int], tokenizer: Any) -> str:
    """The words in question; empty: there are none."""
    words = unknown_words(tokenizer, prompt)
    if tokenizer.unk_token_id in tokens:
        words = words or [
            word for word in prompt.split() if tokenizer.unk_token_id in tokenize(tokenizer, word).input_ids[1:-1]
        ]
        words = words or [prompt]
    return ", ".join(map(repr, words))
