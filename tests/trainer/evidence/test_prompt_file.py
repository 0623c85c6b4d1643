"""Files of prompts, as they are published and as they are written for this."""

from __future__ import annotations

from pathlib import Path

from erasediff.trainer.evidence.prompt_file import read_kept_prompts, read_prompts


def test_layouts_of_published_files(tmp_path: Path) -> None:
    """I2P's and COCO's columns are read over; a byte order mark, too."""
    path = tmp_path / "i2p.csv"
    path.write_text('\ufeffcase_number,prompt,evaluation_seed,class\n0,"a red two, please",5,two\n', encoding="utf-8")
    (row,) = read_prompts(path)
    assert (row.prompt, row.of_class, row.phrasing, row.factor) == ("a red two, please", "two", "", "")
    path.write_text("prompt,caption,phrasing\na two,?,of two\na three,?,\n")
    assert [(row.prompt, row.of_class, row.phrasing) for row in read_prompts(path)] == [
        ("a two", "", "of two"),
        ("a three", "", "a three"),
    ]
    path.write_text("prompt,categories\na two,shapes\n")
    assert [(row.of_class, row.phrasing) for row in read_prompts(path)] == [("", "")]
    path.write_text("image_id,caption\n1,a cat\n1,a dog\n2,a cat\n")
    assert read_kept_prompts(path) == ["a cat", "a dog"]
