"""`sample` on two ranks: the picture of one."""

from __future__ import annotations

from pathlib import Path

from erasediff.launch.cli import main
from ranks import check, run_ranks


def test_two_ranks_draw_the_picture_of_one(base_model: Path, tmp_path: Path) -> None:
    """100 images: more than one rank makes at once."""
    words = ["--model.path", str(base_model), "--model.null-class", "10", "--device", "cpu", "--num-images", "10"]
    words += ["--sampling.num-inference-steps", "2"]
    assert main(["sample", *words, "--output", str(tmp_path / "one.png")]) == 0
    finished = run_ranks(2, ["-m", "erasediff.launch", "sample", *words, "--output", str(tmp_path / "two.png")])
    check(finished)
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()
    assert "picture:" in finished[0].stdout and not finished[1].stdout
