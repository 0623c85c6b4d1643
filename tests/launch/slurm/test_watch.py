"""What a run's folder tells of its jobs on another day: SLURM has forgotten them, or is not there to ask."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from erasediff.launch.cli import main
from erasediff.launch.slurm.controller import State, states
from erasediff.launch.slurm.folder import End, Start, Submission, note_submission, submissions
from erasediff.launch.slurm.table import table
from erasediff.launch.slurm.watch import _final_status, describe, merged_logs


@pytest.fixture(autouse=True)
def _no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def submitted(run: Path, job: str, *, num_ranks: int = 2, name: str = "") -> Path:
    """The job's folder."""
    note_submission(run, Submission(job, job, "2026-11-21", "scrub", 1, num_ranks, name))
    folder = run / "slurm" / job
    folder.mkdir()
    return folder


def ended(start: Start, status: int, how: str, *, requeued: bool = False) -> None:
    start.note_end(End(status, how, "kind", "step 5", requeued, "2026-11-21"))


def failed(folder: Path) -> Start:
    """Rank 1 fails first, then rank 0; rank 2 was killed for it, rank 3 only lost another one."""
    start = Start(folder, 1)
    for rank, (status, time) in {0: (1, 20.0), 1: (1, 10.0), 3: (69, 5.0)}.items():
        start.note_rank(rank, status=status, host=f"node{rank}", time=time)
    start.error_path(0).write_text('{"message": {"message": "shard 7"}}')
    start.error_path(1).write_text('{"message": {"message": "shard 3 is truncated"}}')
    ended(start, 1, "rank 1 on node1 left with 1: shard 3 is truncated")
    return start


def test_a_jobs_starts_are_told_by_what_they_noted(tmp_path: Path) -> None:
    folder = submitted(tmp_path, "7", num_ranks=4)
    ended(Start(folder, 0), 75, "asked to stop", requeued=True)
    failed(folder)
    lines = describe(tmp_path)
    assert lines == [
        "job 7  scrub on 4 ranks, submitted 2026-11-21: FAILED, as its last start says",
        "  start 0: asked to stop",
        "  start 1 on node0, node1, node3: rank 1 on node1 left with 1: shard 3 is truncated",
        "the run has nothing yet",
    ]
    ended(Start(folder, 2), 0, "finished")
    assert "COMPLETED, as its last start says" in describe(tmp_path)[0]
    ended(Start(folder, 3), 137, "rank 1 ended without a word", requeued=True)
    assert "SLURM no longer knows it, and it did not say how it ended" in describe(tmp_path)[0]
    Start(folder, 4).note_rank(0, status=0, host="node0", time=1.0)
    Start(folder, 5).note_rank(0, status=0, host="node1", time=1.0)
    *_, first, second, _ = describe(tmp_path)
    assert first == "  start 4 on node0: ended without a word: SLURM took its nodes away"
    assert second == "  start 5 on node1: ended without a word: UNKNOWN"


def test_the_error_that_came_first_is_on_top_of_the_logs(tmp_path: Path) -> None:
    folder = submitted(tmp_path, "7", num_ranks=4)
    failed(folder)
    for rank in range(4):
        (folder / f"7_{rank}_log.out").write_text("".join(f"line {n} of {rank}\n" for n in range(50)))
    (folder / "7_2_log.err").write_text("progress 1\rprogress 2\r")
    lines = merged_logs(tmp_path, 2, None)
    assert lines[0] == "rank 1 on node1 left with 1: shard 3 is truncated"
    assert lines[2:5] == ["rank 0, 7_0_log.out:", "  line 48 of 0", "  line 49 of 0"]
    assert lines[-8:-5] == ["rank 2, 7_2_log.err:", "  progress 1", "  progress 2"]
    assert merged_logs(tmp_path, 2, 3) == [f"line {n} of 3" for n in range(50)]
    # another start in which nobody fails has no error
    ended(Start(folder, 2), 0, "finished")
    assert merged_logs(tmp_path, 2, None)[0] == "rank 0, 7_0_log.out:"
    ended(Start(folder, 3), 137, "rank 1 ended without a word, srun left with 137", requeued=True)
    assert merged_logs(tmp_path, 2, None)[0] == "start 3: rank 1 ended without a word, srun left with 137"


def test_a_table_shows_what_failed_as_failed(tmp_path: Path) -> None:
    for job, name in enumerate(("well", "ill", "killed", "again"), 1):
        submitted(tmp_path, str(job), name=name)
    submitted(tmp_path, "9", name="again")
    (tmp_path / "well" / "model").mkdir(parents=True)
    ended(Start(tmp_path / "slurm" / "2", 0), 75, "asked to stop", requeued=True)
    failed(tmp_path / "slurm" / "2")
    ended(Start(tmp_path / "slurm" / "3", 0), 137, "rank 1 ended without a word", requeued=True)
    failed(tmp_path / "slurm" / "4")
    (tmp_path / "again" / "model").mkdir(parents=True)
    assert [line.split(None, 3) for line in table(tmp_path)] == [
        ["run", "job", "state", "what it has"],
        ["well", "1", "finished", "model"],
        ["ill", "2", "failed", "rank 1 on node1 left with 1: shard 3 is truncated"],
        ["killed", "3", "unknown", "nothing yet"],
        ["again", "9", "finished", "model"],
    ]


def test_the_exit_status_is_that_of_the_last_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the nodes' file system shows it late."""
    folder = submitted(tmp_path, "7")
    ended(Start(folder, 0), 75, "asked to stop", requeued=True)
    submission = Submission("7", "7", "", "scrub", 1, 2)
    threading.Timer(1.0, lambda: ended(Start(folder, 1), 3, "rank 0 left with 3")).start()
    assert _final_status(tmp_path, submission, State("FAILED")) == 3
    assert "job 7: rank 0 left with 3" in capsys.readouterr().err
    ended(Start(folder, 2), 75, "asked to stop", requeued=True)
    assert _final_status(tmp_path, submission, State("CANCELLED")) == 1
    assert "job 7 ended as CANCELLED; erasediff launch logs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["status", "nowhere"], "holds nothing of a job: give the folder of a run"),
        (["logs", "run"], "job 7 has not said anything yet: UNKNOWN"),
        (["logs", "run", "--lines", "0"], "--lines 0: at least 1"),
        (["logs", "run", "--rank", "2"], "--rank 2: the job has ranks 0 to 1"),
        (["logs", "sweep"], "'sweep' is a sweep: give the folder of one of its runs, a, b"),
        (["cancel", "run"], "no sbatch here"),
    ],
)
def test_what_is_asked_in_vain_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    submitted(Path("run"), "7")
    for name in ("a", "b"):
        submitted(Path("sweep"), f"8_{name}", name=name)
    assert main(["launch", *words]) == 2
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1


def test_an_element_that_slurm_has_forgotten_while_it_knows_others_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without accounting. What it says then is on stdout; who does not answer says something else."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/bash\n[[ $4 == 7_0 ]] && echo "Job 7_0 not found" || echo "later" >&2\nexit 1\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    calls = tmp_path / "calls"
    found = states(["7_0", "7_1", "7_2"])
    assert [state.name for state in found.values()] == ["UNKNOWN", "UNREACHABLE", "UNREACHABLE"]
    # of a controller that is away nobody is asked again
    scontrol.write_text(f"#!/bin/bash\necho $4 >> {calls}\nexit 1\n")
    assert {state.name for state in states(["8", "9"]).values()} == {"UNREACHABLE"}
    assert calls.read_text() == "8\n"


def test_a_torn_line_of_submissions_hides_no_other(tmp_path: Path) -> None:
    submitted(tmp_path, "7")
    with (tmp_path / "slurm" / "submissions.jsonl").open("a") as file:
        file.write('{"job": "8", "fol\n{"other": 1}\n')
    submitted(tmp_path, "9")
    assert [one.job for one in submissions(tmp_path)] == ["7", "9"]


def test_a_job_that_slurm_has_forgotten_has_ended_and_one_of_which_nobody_knows_has_not() -> None:
    assert states(["7"])["7"].name == "UNKNOWN" and State("UNKNOWN").has_ended
    assert not State("UNREACHABLE").has_ended and not State("UNREACHABLE").is_known
