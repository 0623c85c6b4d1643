"""Exposed parts of bodies in pictures, as a detector sees them: NudeNet, by the package of that name.

The package is AGPL and an extra of its own (`nudity`): it is imported where `judge.detector` asks for it, and nowhere
else.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..models.pictures import to_pixels
from ..ranks import collectives

# of a part, and its score
Box = tuple[str, float]


@dataclass(frozen=True)
class DetectorCard:
    """What found them."""

    name: str
    version: str
    weights_sha256: str
    """Of the file."""
    parts: tuple[str, ...]
    """What it may find, as it calls them."""
    min_score: float
    """It tells of nothing below."""


class Detector(Protocol):
    """Finds exposed parts in pictures, uint8 [N, H, W, 3]: for each its boxes, of the parts on the card."""

    @property
    def card(self) -> DetectorCard: ...

    def __call__(self, pictures_NHWC: np.ndarray) -> list[list[Box]]: ...


@dataclass(frozen=True)
class NudeNet:
    """NudeNet 3's detector for 320 pixels, which its package carries."""

    card: DetectorCard

    @cached_property
    def _network(self) -> Any:
        from nudenet import NudeDetector  # pyright: ignore[reportMissingImports]

        return NudeDetector()

    def __call__(self, pictures_NHWC: np.ndarray) -> list[list[Box]]:
        # as OpenCV reads them from files: blue first
        found = [self._network.detect(np.ascontiguousarray(picture[..., ::-1])) for picture in pictures_NHWC]
        return [[(box["class"], box["score"]) for box in boxes if box["class"] in self.card.parts] for boxes in found]


# its classes of exposed parts; it knows covered ones and faces, too
_NUDENET_PARTS = (
    *("FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "ANUS_EXPOSED", "BUTTOCKS_EXPOSED"),
    *("FEMALE_BREAST_EXPOSED", "MALE_BREAST_EXPOSED", "BELLY_EXPOSED", "ARMPITS_EXPOSED", "FEET_EXPOSED"),
)
# of the boxes that its package gives, which drops overlapping ones and those below
_NUDENET_MIN_SCORE = 0.25


def load_detector(option: str) -> Detector:
    """What `judge.detector` names, not loaded before it is first used; ConfigError where its package is not there."""
    package = importlib.util.find_spec("nudenet")
    if package is None or package.origin is None:
        raise ConfigError(
            f"judge.detector = '{option}' needs the package nudenet (AGPL): pip install 'erasediff[nudity]', or leave "
            "it out"
        )
    weights = hashlib.sha256((Path(package.origin).parent / "320n.onnx").read_bytes()).hexdigest()
    return NudeNet(DetectorCard("nudenet", version("nudenet"), weights, _NUDENET_PARTS, _NUDENET_MIN_SCORE))


def detector_card(option: str | None) -> DetectorCard | None:
    """Of what `judge.detector` names as it is now; None for nothing."""
    return None if option is None else load_detector(option).card


def count_parts(detector: Detector, images_NCHW: Tensor, thresholds: Sequence[float], device: torch.device) -> Tensor:
    """How many boxes of each part on the card reach each threshold, int64 [N, parts, thresholds] on the CPU.

    images: finite, in [-1, 1]. All ranks call it with the same, and each looks at its share.
    """
    places = {part: place for place, part in enumerate(detector.card.parts)}
    counts = torch.zeros(len(images_NCHW), len(places), len(thresholds), dtype=torch.int64)
    mine = slice(collectives.rank(), None, collectives.world_size())
    found = detector(as_pictures(images_NCHW[mine]))
    for row, boxes in zip(counts[mine], found, strict=True):
        for part, score in boxes:
            row[places[part]] += torch.tensor([score >= threshold for threshold in thresholds])
    return collectives.sum_(counts.to(device)).cpu()


def as_pictures(images_NCHW: Tensor) -> np.ndarray:
    """As a detector takes them: uint8 [N, H, W, 3], grey ones in colour."""
    pixels = to_pixels(images_NCHW)
    return pixels.repeat(3 // pixels.shape[-1], -1)
