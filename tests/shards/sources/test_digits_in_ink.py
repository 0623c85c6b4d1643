"""The digits in coloured ink: counts, balance, and captions that say what the picture shows."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from erasediff.shards import DataError, Dataset, build
from erasediff.shards.sources.digits_in_ink import COLOURS, DIGITS, HELD_OUT_PHRASING, PHRASINGS, prompts
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def by_digit(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build("digits-in-ink", tmp_path_factory.mktemp("ink") / "data")


def colour_of(image: np.ndarray) -> str:
    """The ink's name, from the picture's colour sums alone."""
    red, green, blue = (image[:, :, channel].sum(dtype=np.int64) for channel in range(3))
    light = (red > 0, green > 0, blue > 0)
    if light == (True, False, True):
        assert red < blue
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 0): "yellow", (1, 0, 1): "purple"}
    return names.get(light, "white")  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_captions_say_what_the_pictures_show(by_digit: Dataset) -> None:
    values, numbers = load_digits(return_X_y=True)
    grey = torch.from_numpy(values.reshape(-1, 1, 8, 8) / 16)
    larger = torch.nn.functional.interpolate(grey, scale_factor=2, mode="bilinear", align_corners=False)
    assert len(by_digit) == 1797 and by_digit.classes == DIGITS
    assert by_digit.labels.tolist() == numbers.tolist()
    for i in range(len(by_digit)):
        sample = by_digit.read(i)
        assert sample.image.shape == (16, 16, 3)
        # whatever the ink, its brightest channel is full
        assert np.abs(sample.image.max(2) / 255 - larger[i, 0].numpy()).max() < 1.5 / 255
        words = sample.text.split()
        assert [word for word in words if word in DIGITS] == [DIGITS[numbers[i]]]
        assert [word for word in words if word in COLOURS] == [colour_of(sample.image)]
        assert by_digit.metadata(i) == {"digit": DIGITS[numbers[i]], "colour": colour_of(sample.image)}


def test_inks_and_phrasings_go_round_within_each_digit(by_digit: Dataset) -> None:
    captions = Counter(by_digit.text(i) for i in range(len(by_digit)))
    asked = prompts()
    assert len(asked) == 300 and captions.keys() == {prompt.text for prompt in asked}
    assert min(captions.values()) >= 5 and max(captions.values()) <= 7
    for digit in DIGITS:
        counts = [sum(captions[p.text] for p in asked if (p.digit, p.colour) == (digit, ink)) for ink in COLOURS]
        assert max(counts) - min(counts) <= 1
    totals = [sum(captions[p.text] for p in asked if p.colour == ink) for ink in COLOURS]
    assert max(totals) - min(totals) <= 4


def test_one_phrasing_is_in_no_caption_and_every_word_of_it_is(by_digit: Dataset) -> None:
    captions = {by_digit.text(i) for i in range(len(by_digit))}
    held_out = prompts([HELD_OUT_PHRASING])
    assert HELD_OUT_PHRASING not in PHRASINGS and len(held_out) == 60
    assert not captions & {prompt.text for prompt in held_out}
    assert {word for prompt in held_out for word in prompt.text.split()} <= {
        word for caption in captions for word in caption.split()
    }


def test_the_same_pictures_labelled_by_their_colour(by_digit: Dataset, tmp_path: Path) -> None:
    by_colour = build("digits-in-ink:colour", tmp_path / "data")
    assert by_colour.classes == COLOURS and by_colour.name == "digits-in-ink-colour"
    assert by_colour.keys == by_digit.keys
    assert np.array_equal(by_colour.index["content_hash"], by_digit.index["content_hash"])
    for i in range(0, len(by_digit), 20):
        assert COLOURS[by_colour.labels[i]] == colour_of(by_digit.read(i).image)
        assert (by_colour.text(i), by_colour.metadata(i)) == (by_digit.text(i), by_digit.metadata(i))
    with pytest.raises(DataError, match="source digits-in-ink:writer: labels are digit or colour"):
        build("digits-in-ink:writer", tmp_path / "other")
