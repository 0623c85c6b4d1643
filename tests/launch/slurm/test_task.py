"""What a rank does on its node before and after its command, with SLURM's variables and without SLURM."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from erasediff.launch.slurm import task
from erasediff.launch.slurm.folder import Start
from erasediff.trainer.errors import ConfigError
from processes import start

ALONE = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "1",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_CPUS_PER_TASK": "3",
}
CODE = """
import os, sys, signal
from erasediff.launch.slurm.task import Task
words, slurm, cache, *more = sys.argv[1:]
task = Task(tuple(words.split()), slurm, cache, **dict(option.split("=") for option in more))
if "SIGNALLED" in os.environ:  # as soon as it listens
    from erasediff.trainer.ranks import meeting
    on_signals = meeting.on_signals
    meeting.on_signals = lambda: (os.kill(os.getpid(), signal.SIGUSR2), on_signals())[1]
task()
"""


def run(folder: Path, words: str, *more: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], Start]:
    """One rank of a start, and what it left."""
    arguments = ["-c", CODE, words, str(folder / "slurm"), str(folder / "cache"), *more]
    variables = os.environ | ALONE | {"PYTHONWARNINGS": "ignore"} | environment
    variables = {name: value for name, value in variables.items() if name != "OMP_NUM_THREADS"}
    process = start(arguments, variables, cwd=folder)
    out, err = process.communicate(timeout=100)
    number = int(environment.get("SLURM_RESTART_COUNT", "0"))
    return subprocess.CompletedProcess(arguments, process.wait(), out, err), Start(folder / "slurm" / "7", number)


def test_a_rank_notes_how_it_ended(tmp_path: Path) -> None:
    done, here = run(tmp_path, "scrub nowhere.toml")
    assert done.returncode == 2 and "nowhere.toml" in done.stderr and "Traceback" not in done.stderr
    assert (here.ranks()[0]["status"], here.ranks()[0]["host"]) == (2, os.uname().nodename)
    assert "nowhere.toml" in here.message(0)
    assert "start 0 of job 7, rank 0 of 1" in done.stdout and "start 0 of job 7, rank 0 of 1" in done.stderr


def test_an_error_that_nobody_foresaw_is_told_too(tmp_path: Path) -> None:
    done, here = run(tmp_path, "scrub nowhere.toml", SLURM_JOB_NODELIST="node[1")
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert here.ranks()[0]["status"] == 1 and "SlurmParseException: " in here.first_error()


def test_who_is_asked_before_it_works_is_to_start_again(tmp_path: Path) -> None:
    done, here = run(tmp_path, "scrub nowhere.toml", SIGNALLED="1", SLURM_RESTART_COUNT="2")
    assert done.returncode == 75 and "Traceback" not in done.stderr
    assert here.number == 2 and here.ranks()[0]["status"] == 75


def test_what_cannot_be_staged_ends_the_rank_with_1(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('forget = "f"\nremain = "r"\noutput = "run"\n[model]\npath = "m"\n')
    done, here = run(tmp_path, "scrub run.toml", f"stage_to={tmp_path / 'near'}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "/f: no such dataset folder" in here.message(0)


def test_a_request_that_was_changed_since_is_not_carried_out(tmp_path: Path) -> None:
    """A job that waits is for what was asked when it was submitted."""
    file = tmp_path / "request.toml"
    file.write_text("id = 'one'\n")
    code = CODE.replace(
        "Task(tuple(words.split()), slurm, cache, ", "Task(tuple(words.split()), slurm, cache, request=("
    )
    code = code.replace('**dict(option.split("=") for option in more))', "more[0], more[1]))")
    sha256 = hashlib.sha256(b"id = 'one'\n").hexdigest()
    assert task.request_of(str(file)) == (str(file), sha256)
    assert task.request_of(str(tmp_path / "no")) is None and task.request_of(None) is None

    def left(asked: str) -> tuple[int, str]:
        arguments = ["-c", code, "--version", str(tmp_path / "slurm"), str(tmp_path / "cache"), asked, str(sha256)]
        process = start(arguments, os.environ | ALONE | {"PYTHONWARNINGS": "ignore"}, cwd=tmp_path)
        _, err = process.communicate(timeout=100)
        return process.wait(), err

    assert left("request.toml")[0] == 0
    assert left("gone.toml")[0] == 2
    file.write_text("id = 'two'\n")
    status, err = left("request.toml")
    assert status == 2 and "request = 'request.toml' is not what it was when the job was submitted" in err


def test_slurms_variables_become_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "SLURM_JOB_ID": "1234567",
        "SLURM_PROCID": "5",
        "SLURM_NTASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_CPUS_PER_TASK": "12",
    }
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[07-08]")
    found = task.rank_environment(given)
    expected = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node07"}
    assert expected.items() <= found.items() and found["OMP_NUM_THREADS"] == "12"
    assert task.rank_environment(given | {"OMP_NUM_THREADS": "2"})["OMP_NUM_THREADS"] == "2"
    # another one with every start and for every element of an array; the doctor's beside it, below 32,768
    ports = {
        int(
            task.rank_environment(given | {"SLURM_JOB_ID": str(job), "SLURM_RESTART_COUNT": str(restart)})[
                "MASTER_PORT"
            ]
        )
        for job in range(100, 116)
        for restart in range(8)
    }
    assert len(ports) == 128
    assert min(ports) >= 20_000 and max(ports) + task.NUM_PORTS < 32_768


def test_compiled_code_is_kept_in_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = task.caches(str(tmp_path / "fast"), {"TRITON_CACHE_DIR": "elsewhere"})
    assert named == {"TORCH_EXTENSIONS_DIR": f"{tmp_path}/fast/torch_extensions"}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = tmp_path / f"erasediff-{os.getuid()}"
    assert task.caches(None, {})["TRITON_CACHE_DIR"] == f"{own}/triton"
    assert own.stat().st_mode & 0o777 == 0o700
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(own, 12345, 12345)
    with pytest.raises(ConfigError, match="is another user's: name a cache_dir of your own"):
        task.caches(None, {})


@pytest.mark.parametrize(("status", "waits_seconds"), [(1, 0.4), (69, 0.4), (75, 1.2)])
def test_a_rank_that_leaves_with_an_error_waits_for_the_others_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, waits_seconds: float
) -> None:
    """Longer where all were asked to stop, for all of them save; no longer than until all have spoken."""
    assert (task.LAST_WORDS_SECONDS, task.LAST_NOTES_SECONDS) == (5.0, 60.0)
    monkeypatch.setattr(task, "LAST_WORDS_SECONDS", 0.4)
    monkeypatch.setattr(task, "LAST_NOTES_SECONDS", 1.2)
    here = Start(tmp_path, 0)
    here.note_rank(0, status=status)
    began = time.monotonic()
    task._let_others_speak(here, 2, status)
    assert waits_seconds <= time.monotonic() - began < waits_seconds + 0.4
    monkeypatch.setattr(task, "LAST_WORDS_SECONDS", 50.0)
    monkeypatch.setattr(task, "LAST_NOTES_SECONDS", 50.0)
    threading.Timer(0.3, lambda: here.note_rank(1, status=status)).start()
    began = time.monotonic()
    task._let_others_speak(here, 2, status)
    assert 0.2 < time.monotonic() - began < 20


def test_a_doctor_that_is_killed_counts_like_a_rank_that_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" "$MASTER_PORT" > {tmp_path}/told\nkill -KILL $$\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setenv("MASTER_PORT", "20001")
    assert task._examine(("scrub", "run.toml")) == 128 + signal.SIGKILL
    assert (tmp_path / "told").read_text() == "-m erasediff.launch doctor run.toml 26001\n"
