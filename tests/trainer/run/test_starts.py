"""Two starts of one run: what differs from the one before, and who may work on it."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest
from erasediff.trainer.config import ModelConfig, ScrubConfig
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.run import folder as run_folder
from erasediff.trainer.run.attempts import Attempt
from erasediff.trainer.run.folder import RunFolder


def open_run(output: Path) -> RunFolder:
    config = ScrubConfig(model=ModelConfig("model"), forget="forget", remain="remain", output=str(output))
    return RunFolder(config, config.output)


def test_what_differs_from_the_start_before_is_said_with_what_it_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Attempt.create(tmp_path, {"engine.zero_stage": 2, "engine.forward_batch_size": None, "data.num_workers": 1})
    first.begin(None, 0)
    second = {"engine.zero_stage": 3, "engine.forward_batch_size": 4, "data.num_workers": 2}
    # what is dropped hangs on a batch's parts, not on who holds the weights
    for has_dropout, of_parts in ((False, "equal to rounding, not bit for bit"), (True, "with dropout, another model")):
        again = Attempt.create(tmp_path, second)
        again.begin(first.folder / "checkpoint-000001", 1, has_dropout=has_dropout)
        assert capsys.readouterr().err.splitlines() == [
            "erasediff: data.num_workers = 2 here, 1 in attempt-0001",
            f"erasediff: engine.forward_batch_size = 4 here, None in attempt-0001: {of_parts}",
            "erasediff: engine.zero_stage = 3 here, 2 in attempt-0001: equal to rounding, not bit for bit",
        ]


def test_who_holds_a_run_keeps_others_from_it_until_it_is_finished(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(open_run(tmp_path / "ours").path / run_folder.CONFIG_NAME, run)
    with (run / run_folder.LOCK_NAME).open("a") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process is working on this run; wait for it, or end it first"):
            open_run(run)
        (run / "model").mkdir()
        assert open_run(run).is_finished
