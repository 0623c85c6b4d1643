"""An erasure's sets are found again, or refused where the request selects others now."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import build
from erasediff.shards.dataset import Dataset
from erasediff.shards.requests.request import Request, Selector
from erasediff.shards.requests.select import select
from erasediff.trainer.erase import _Plan, _split
from erasediff.trainer.errors import ConfigError
from PIL import Image


def planned(folder: Path, captions: list[str], before: int | None = None) -> _Plan:
    """Pictures that are the same whatever their captions are. before: the number of one that was forgotten earlier."""
    folder.mkdir(exist_ok=True)
    for number, _ in enumerate(captions):
        Image.fromarray(np.full((4, 4), 60 * number, np.uint8)).save(folder / f"{number}.png")
    records = [{"path": f"{number}.png", "caption": caption} for number, caption in enumerate(captions)]
    (folder / "table.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    data: Dataset = build(folder / "table.jsonl", folder / f"data-{'-'.join(captions).replace(' ', '')}")
    request = Request((Selector(captions=("*cat*",)),))
    gone = np.arange(len(data)) == (-1 if before is None else before)
    return _Plan(request, data, None, select(data, request), gone)  # pyright: ignore[reportArgumentType]


def test_corrected_captions_are_not_passed_over(tmp_path: Path) -> None:
    sets = tmp_path / "out" / "split"
    sets.parent.mkdir()
    first = planned(tmp_path, ["a cat", "a dog", "a bird"])
    for _ in range(2):
        _split(first, sets)
    assert Dataset.open(sets / "forget").keys == [first.given.key(0)]
    corrected = planned(tmp_path, ["a cat", "a cat too", "a bird"])
    assert corrected.given.fingerprint == first.given.fingerprint, "of pictures and labels alone"
    with pytest.raises(ConfigError, match=r"its forget set is not what .* selects now: captions or"):
        _split(corrected, sets)
    with pytest.raises(ConfigError, match="its remain set is not what"):
        _split(planned(tmp_path / "again", ["a cat", "a dog", "a bird"], before=2), sets)
