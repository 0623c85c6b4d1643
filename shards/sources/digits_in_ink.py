"""The digits drawn in six inks, with captions that name both: what a small text-to-image model learns from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import DataError
from ..format.images import encode_png
from .digits import read_digits
from .source import Entry, ListedSource

IMAGE_SIZE = 16
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
INKS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
    "purple": (170, 0, 255),
}
COLOURS = tuple(INKS)
PHRASINGS = (
    "a {colour} {digit}",
    "a picture of a {colour} {digit}",
    "the digit {digit} in {colour}",
    "a {colour} handwritten {digit}",
    "the number {digit} written in {colour} ink",
)
# in no caption, though every word of it is: what a model makes of it, it was not trained on
HELD_OUT_PHRASING = "a picture of the number {digit} in {colour} ink"

LABELS = {"digit": DIGITS, "colour": COLOURS}


@dataclass(frozen=True)
class Prompt:
    """A text, and what it asks for."""

    text: str
    digit: str
    colour: str

    @classmethod
    def of(cls, phrasing: str, digit: str, colour: str) -> "Prompt":
        return cls(phrasing.format(digit=digit, colour=colour), digit, colour)


def prompts(phrasings: Sequence[str] = PHRASINGS) -> list[Prompt]:
    """Every phrasing × colour × digit: 60 for each phrasing."""
    return [Prompt.of(phrasing, digit, colour) for phrasing in phrasings for colour in COLOURS for digit in DIGITS]


class DigitsInInk(ListedSource):
    """The source `digits-in-ink`: RGB on black, 16 × 16, each with a caption and keys as `digits` has them.

    Ink and phrasing go round within each digit, so that all combinations are about equally many. label: what the class
    is, the `digit` or the `colour`; pictures, captions, keys and metadata (`digit`, `colour`) are the same.
    """

    def __init__(self, label: str = "digit") -> None:
        if label not in LABELS:
            raise DataError(f"source digits-in-ink:{label}: labels are {' or '.join(LABELS)}")
        self.name = "digits-in-ink" if label == "digit" else f"digits-in-ink-{label}"
        self.classes = LABELS[label]
        grey, numbers = read_digits()
        shown = _captions(numbers.tolist())
        self._images = [_drawn(image, INKS[prompt.colour]) for image, prompt in zip(grey, shown, strict=True)]
        entries = []
        for i, prompt in enumerate(shown):
            metadata = {"digit": prompt.digit, "colour": prompt.colour}
            number = self.classes.index(metadata[label])
            size = len(self._images[i])
            entries.append(Entry(f"digit-{i:05d}", "png", size, str(i), number, prompt.text, metadata))
        super().__init__(entries)

    def read(self, entry: Entry) -> bytes:
        return self._images[int(entry.location)]


def _captions(numbers: list[int]) -> list[Prompt]:
    """What each picture shows, in words."""
    seen: Counter[int] = Counter()
    found = []
    for number in numbers:
        turn = seen[number]
        seen[number] += 1
        # the digit is added so that no ink gets the odd ones of every digit
        colour = COLOURS[(turn + number) % len(COLOURS)]
        found.append(Prompt.of(PHRASINGS[turn // len(COLOURS) % len(PHRASINGS)], DIGITS[number], colour))
    return found


def _drawn(grey: np.ndarray, ink: tuple[int, int, int]) -> bytes:
    """PNG of one digit, uint8 [8, 8], in ink on black."""
    larger = Image.fromarray(grey).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    shades = np.asarray(larger, dtype=np.float64)[:, :, None] / 255
    return encode_png(np.rint(shades * ink).astype(np.uint8))
