"""The command on two real ranks: the result of one rank, written once, and mistakes said once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from erasediff.shards import split
from ranks import check, run_ranks
from safetensors.torch import load_file


def arguments(digits: Path, base_model: Path, output: Path, *more: str) -> list[str]:
    return [
        *("-m", "erasediff.launch", "scrub", "--model.path", str(base_model), "--model.null-class", "10"),
        *("--forget", str(digits / "split" / "forget"), "--remain", str(digits / "split" / "remain")),
        *("--output", str(output), "--engine.device", "cpu"),
        *("--train.max-train-steps", "4", "--train.train-batch-size", "5", "--optimizer.name", "sgd"),
        *("--optimizer.learning-rate", "0.05", "--method.teacher", "frozen", *more),
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def one_rank(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("one") / "run"
    check(run_ranks(1, arguments(digits, base_model, output)))
    return output


def test_two_ranks_give_the_result_of_one(one_rank: Path, digits: Path, base_model: Path, tmp_path: Path) -> None:
    """Stage 3 with checkpoints and a teacher that is swapped in, against stage 2 on one rank without checkpoints."""
    more = ("--engine.zero-stage", "3", "--train.checkpointing-steps", "2")
    command = arguments(digits, base_model, tmp_path / "run", *more)
    finished = run_ranks(2, command, environment={"PYTHONWARNINGS": "default"}, fresh=True)
    check(finished)
    assert "torch.distributed" not in finished[0].stderr + finished[1].stderr, "a warning that no user can act on"
    lines, expected = metrics(tmp_path / "run"), metrics(one_rank)
    assert len(lines) == len(expected) == 4
    for line, one in zip(lines, expected, strict=True):
        for name in ("loss_r", "loss_f", "lambda_t", "dot_gg"):
            assert line[name] == pytest.approx(one[name], rel=1e-5)
    base = load_file(base_model / "unet" / "diffusion_pytorch_model.safetensors")
    ours, theirs = weights(tmp_path / "run"), weights(one_rank)
    moved = sum((theirs[name] - base[name]).square().sum() for name in base) ** 0.5
    apart = sum((theirs[name] - ours[name]).square().sum() for name in base) ** 0.5
    assert apart <= 1e-5 * moved


def test_a_mistake_is_said_once_and_ends_every_rank(digits: Path, base_model: Path, tmp_path: Path) -> None:
    command = arguments(digits, base_model, tmp_path / "run", "--method.anchor", "3")
    finished = run_ranks(2, command, environment={"TORCHELASTIC_ERROR_FILE": str(tmp_path / "error-RANK.json")})
    assert [process.returncode for process in finished] == [2, 2]
    assert "method.anchor = 3 is a class that is to be forgotten" in finished[0].stderr
    assert "Traceback" not in finished[0].stderr + finished[1].stderr
    assert "erasediff:" not in finished[1].stderr, "what a launcher is told is said once"
    assert not (tmp_path / "run").exists()


# each rank's DISK is a folder of its own, as the disks of several machines are
EACH_ITS_DISK = """
import os, sys
from erasediff.launch.cli import main
from erasediff.trainer.ranks.collectives import end_process
end_process(main([word.replace("DISK", "disk-" + os.environ["RANK"]) for word in sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ("5", "erasediff: rank 1 has other samples of forget than rank 0: copy the same files to every machine"),
        (None, "erasediff: rank 1: "),
    ],
)
def test_what_is_wrong_on_one_machine_ends_every_rank(
    digits: Path, base_model: Path, tmp_path: Path, theirs: str | None, expected: str
) -> None:
    for rank, label in enumerate(["3", theirs]):
        if label is not None:
            split(digits / "data", tmp_path / f"disk-{rank}", [label])
    split(digits / "data", tmp_path / "rest", ["3", "5"])
    words = arguments(digits, base_model, tmp_path / "run")[2:]
    words[words.index("--forget") + 1] = str(tmp_path / "DISK" / "forget")
    words[words.index("--remain") + 1] = str(tmp_path / "rest" / "remain")
    finished = run_ranks(2, ["-c", EACH_ITS_DISK, *words])
    assert [process.returncode for process in finished] == [2, 2], finished[1].stderr
    assert expected in finished[0].stderr
    assert "Traceback" not in finished[0].stderr + finished[1].stderr
