"""The README's strip: a digit dissolves over the steps of a scrub, its neighbours stay.

    python -m erasediff.launch.hero DEMO_FOLDER OUTPUT.webp

Scrubs the model of a finished `erasediff demo` again, with the same seeds, and keeps a frame every few steps.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..trainer.config import SamplingConfig, ScrubConfig
from ..trainer.config.toml import decode, read_toml
from ..trainer.engine.sharded_model import ShardedModel
from ..trainer.errors import ConfigError
from ..trainer.models.pictures import to_pixels
from ..trainer.scrubbing import run_scrub
from .preview import digits_shape, sample_now

FRAME_EVERY = 4  # steps
ROWS = 3
SCALE = 11
GAP = 14
MAX_BYTES = 1_000_000
_PAPER, _INK, _SOFT, _MARK = (19, 20, 22), (236, 234, 230), (120, 116, 110), (255, 122, 107)


class _Frames:
    """A `Watch` that keeps what the model makes of every digit, from the same noise each time."""

    def __init__(self) -> None:
        self._shape = digits_shape()
        self.frames: list[tuple[int, Tensor]] = []

    def __call__(self, step: int, model: ShardedModel) -> None:
        if step % FRAME_EVERY == 0:
            labels = [label for _ in range(ROWS) for label in range(10)]
            self.frames.append((step, sample_now(self._shape, model, labels, SamplingConfig())))


def draw(images: Tensor, forgotten: int, step: int, last_step: int) -> Image.Image:
    """One frame: ten columns of digits, the forgotten one marked, a bar for the steps beneath."""
    pixels = to_pixels(images)[..., 0]
    size = pixels.shape[1] * SCALE
    width, height = GAP + 10 * (size + GAP), 34 + ROWS * (size + 6) + 26
    frame = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(frame), ImageFont.load_default(size=18)
    for column in range(10):
        left = GAP + column * (size + GAP)
        colour = _MARK if column == forgotten else _SOFT
        pen.text((left + size / 2, 17), str(column), fill=colour, font=font, anchor="mm")
        for row in range(ROWS):
            digit = Image.fromarray(np.ascontiguousarray(pixels[row * 10 + column]))
            frame.paste(digit.resize((size, size), Image.Resampling.NEAREST), (left, 34 + row * (size + 6)))
        if column == forgotten:
            box = (left - 5, 29, left + size + 4, 34 + ROWS * (size + 6) - 2)
            pen.rounded_rectangle(box, radius=6, outline=_MARK, width=2)
    bottom = height - 13
    track = (GAP, bottom - 2, width - 130, bottom + 2)
    pen.rounded_rectangle(track, radius=2, fill=(48, 51, 56))
    reached = track[0] + (track[2] - track[0]) * step / max(last_step, 1)
    pen.rounded_rectangle((track[0], track[1], max(reached, track[0] + 2), track[3]), radius=2, fill=_MARK)
    pen.text((width - GAP, bottom), f"step {step}", fill=_INK, font=font, anchor="rm")
    return frame


def make_hero(demo: Path, output: Path) -> None:
    """Writes the animation. Raises ConfigError where there is no finished demo, or the file would be too large."""
    recorded = demo / "erased" / "scrub" / "config.toml"
    config = decode(ScrubConfig, read_toml(recorded), str(recorded))
    forgotten = int((demo / "request.toml").read_text().partition('labels = ["')[2][:1])
    watch = _Frames()
    with tempfile.TemporaryDirectory() as folder:
        run_scrub(replace(config, output=str(Path(folder) / "scrub")), watch=watch)
    last_step = watch.frames[-1][0]
    frames = [draw(images.cpu(), forgotten, step, last_step) for step, images in watch.frames]
    durations = [1200, *[110] * (len(frames) - 2), 2600]  # milliseconds
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    frames[0].save(
        partial,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        quality=80,
        method=6,
        minimize_size=True,
    )
    if partial.stat().st_size >= MAX_BYTES:
        raise ConfigError(f"{output} would have {partial.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
    partial.rename(output)
    print(f"{output}: {len(frames)} frames, {output.stat().st_size:,} bytes")


def main(words: Sequence[str]) -> int:
    if len(words) != 2:
        print("usage: python -m erasediff.launch.hero DEMO_FOLDER OUTPUT.webp", file=sys.stderr)
        return 2
    try:
        make_hero(Path(words[0]), Path(words[1]))
    except ConfigError as error:
        print(f"hero: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
