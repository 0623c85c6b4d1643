"""The pictures that a request of words asks for: which prompt each is of, and where it is kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..config import GenerateConfig
from .request import ConceptPrompt, ConceptRequest

IMAGES_NAME = "images"
LATENTS_NAME = "latents"  # until they lie in the shards


@dataclass(frozen=True)
class Picture:
    """One to be drawn."""

    number: int
    """Its noise is a function of this and the seed."""
    key: str
    asked: ConceptPrompt

    def file(self, output: Path) -> Path:
        return output / IMAGES_NAME / self.key.partition("-")[0] / f"{self.key}.png"

    def latents_file(self, output: Path) -> Path:
        return output / LATENTS_NAME / f"{self.key}.npy"


def pictures_of(request: ConceptRequest, config: GenerateConfig) -> list[Picture]:
    """All to be drawn: each set goes round its prompts.

    Their keys are of this request and seed alone: a model's record knows by them what it was asked to forget.
    """
    prompts, found = request.prompts(request.phrasings), []
    asked = (request.words, request.remaining, request.phrasings, config.sampling.seed)
    drawing = hashlib.sha256(repr(asked).encode()).hexdigest()[:8]
    for name, count in (("forget", config.num_forget_images), ("remain", config.num_remain_images)):
        of_set = [one for one in prompts if one.is_forgotten == (name == "forget")]
        found += [(f"{name}-{drawing}-{i:06d}", of_set[i % len(of_set)]) for i in range(count)]
    return [Picture(number, key, asked) for number, (key, asked) in enumerate(found)]
