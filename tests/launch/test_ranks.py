"""Processes that fail in this and that order: whose error the launcher shows."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from erasediff.launch.cli import fail
from erasediff.launch.failure import report
from erasediff.launch.ranks import Ranks, _environments
from erasediff.trainer.errors import ConfigError
from erasediff.trainer.ranks.last_words import leave_word
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def test_what_a_rank_left_word_of_is_said_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, log = tmp_path / "error.json", tmp_path / "run" / "logs" / "attempt" / "1" / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("much else\n")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    leave_word("rank 1 says 'no'", 2)
    assert report(ProcessFailure(local_rank=1, pid=7, exitcode=2, error_file=str(file)), str(log)) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [f"erasediff: rank 1 left with exit code 2; its log is {log}", "rank 1 says 'no'"]


def test_ranks_share_the_cores_that_they_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an allocation, or a container, these are fewer than the machine has."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 5, 7, 9})
    assert {_environments(num)[0]["OMP_NUM_THREADS"] for num in (2,)} == {"2"}
    assert _environments(9)[8]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert _environments(2)[1]["OMP_NUM_THREADS"] == "7"


def test_a_rank_that_no_launcher_listens_to_speaks_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert fail(ConfigError("no such data"), 2) == 2
    assert capsys.readouterr().err == "erasediff: rank 3: no such data\n"

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert fail(ConfigError("no such data"), 2) == 2
    assert capsys.readouterr().err == "", "all ranks say it to the launcher, rank 0 to the user"

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "missing" / "error.json"))
    assert fail(ConfigError("no such data"), 2) == 2
    assert capsys.readouterr().err == "erasediff: rank 3: no such data\n"


@pytest.mark.parametrize(
    ("first", "second", "culprit"),
    [
        (f"sys.exit({os.EX_UNAVAILABLE})", "time.sleep(1); sys.exit(3)", 1),
        (f"sys.exit({os.EX_UNAVAILABLE})", "os.kill(os.getpid(), signal.SIGKILL)", 1),
        # the first ends as soon as the second is killed
        (
            "open(os.environ['PIPE']).read(); os._exit(3)",
            "pipe = open(os.environ['PIPE'], 'w'); os.kill(os.getpid(), 9)",
            1,
        ),
        ("sys.exit(3)", "time.sleep(100)", 0),
        ("time.sleep(100)", "sys.exit(3)", 1),
    ],
)
def test_a_rank_that_only_lost_another_is_not_the_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str, culprit: int
) -> None:
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM")
    before = signal.getsignal(signal.SIGTERM)
    # like a rank, it ends itself: the launcher's SIGTERM only asks
    ignoring = "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    code = f"{ignoring}\nif os.environ['RANK'] == '0': {first}\nelse: {second}"
    logs = DefaultLogsSpecs(str(tmp_path), redirects=Std.ALL)
    os.mkfifo(tmp_path / "pipe")
    environments = {rank: {"RANK": str(rank), "PIPE": str(tmp_path / "pipe")} for rank in (0, 1)}
    ranks = Ranks(sys.executable, ("-c", code), environments, logs, kill_delay_seconds=3)
    try:
        ranks.start()
        failure = ranks.wait_for_all()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert failure is not None and failure.local_rank == culprit
