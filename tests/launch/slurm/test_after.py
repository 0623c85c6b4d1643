"""What follows when a start has ended: its ranks' own words, and srun's."""

from __future__ import annotations

from pathlib import Path

import pytest
from erasediff.launch.slurm.after import decide, main
from erasediff.launch.slurm.folder import End, Start, Submission, newest, note_submission
from erasediff.trainer.ranks.last_words import leave_word
from submitting import printed

# of each rank what it left with; None: it said nothing
Ranks = list[int | None]


def ended(run: Path, number: int, ranks: Ranks, srun: int, *, was_at_limit: bool = False, fruitless: int = 2) -> End:
    start = Start(run / "slurm" / "7", number)
    for rank, status in enumerate(ranks):
        if status is not None:
            start.note_rank(rank, status=status, host=f"node{rank}", time=100.0 - rank)
    end = decide(run, start, srun, num_ranks=len(ranks), was_at_limit=was_at_limit, max_fruitless=fruitless)
    start.note_end(end)
    return end


@pytest.mark.parametrize(
    ("ranks", "srun", "status", "requeued"),
    [
        ([0, 0], 0, 0, False),
        ([75, 75], 75, 75, True),
        ([69, None], 137, 137, True),  # one was killed
        ([None, None], 143, 143, True),
        ([69, 69], 69, 69, True),
        ([134, 69], 134, 134, True),  # NCCL's watchdog
        ([2, 2], 2, 2, False),
        ([1, None], 137, 1, False),  # one failed, and srun killed the other
        ([69, 1], 69, 1, False),
        ([3, 3], 3, 3, False),
        ([None, None], 127, 127, False),  # there is no such program
        ([None, None], 1, 1, False),  # Python came no further
        ([75, None], 137, 137, True),
        ([69, None], 1, 1, True),
        ([0, 1], 1, 1, False),
    ],
)
def test_what_ends_a_job_and_what_queues_it_again(
    tmp_path: Path, ranks: Ranks, srun: int, status: int, requeued: bool
) -> None:
    end = ended(tmp_path, 0, ranks, srun)
    assert (end.status, end.is_requeued) == (status, requeued)


def test_the_error_that_came_first_is_told(tmp_path: Path) -> None:
    start = Start(tmp_path / "slurm" / "7", 0)
    start.error_path(1).parent.mkdir(parents=True)
    start.error_path(1).write_text('{"message": {"message": "shard 3 is truncated"}}')
    assert ended(tmp_path, 0, [1, 1], 1).how == "rank 1 on node1 left with 1: shard 3 is truncated"


def publish(run: Path, step: int) -> None:
    folder = run / "attempt-0001" / f"checkpoint-{step:06d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_a_run_that_fails_the_same_way_twice_without_a_new_checkpoint_stops(tmp_path: Path) -> None:
    assert ended(tmp_path, 0, [69, None], 137).is_requeued
    publish(tmp_path, 5)
    assert ended(tmp_path, 1, [69, None], 137).is_requeued  # it came further
    assert ended(tmp_path, 2, [69, None], 139).is_requeued  # in another way
    end = ended(tmp_path, 3, [None, None], 139)
    assert (end.status, end.is_requeued) == (1, False)
    assert "2 starts have ended so without a new checkpoint" in end.how


def test_a_start_that_slurm_took_away_is_no_failure_of_the_runs(tmp_path: Path) -> None:
    assert ended(tmp_path, 0, [None], 137).is_requeued
    Start(tmp_path / "slurm" / "7", 1).note_rank(0, status=75, host="node1", time=1.0)  # it has no end
    assert ended(tmp_path, 2, [None], 137).is_requeued
    assert not ended(tmp_path, 3, [None], 137).is_requeued


def test_patience_is_a_setting(tmp_path: Path) -> None:
    for number in range(3):
        assert ended(tmp_path, number, [None], 137, fruitless=4).is_requeued
    assert not ended(tmp_path, 3, [None], 137, fruitless=4).is_requeued


def test_who_asks_may_ask_again_but_a_time_limit_that_is_too_short_ends_the_job(tmp_path: Path) -> None:
    for number in range(4):
        assert ended(tmp_path, number, [75, 75], 75).is_requeued
    assert ended(tmp_path, 4, [75, 75], 75, was_at_limit=True).is_requeued
    end = ended(tmp_path, 5, [75, 75], 75, was_at_limit=True)
    assert not end.is_requeued and "longer timeout_min" in end.how


def test_a_rank_that_its_watchdog_ended_has_left_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot note its end: its error is all it leaves."""
    start = Start(tmp_path / "slurm" / "7", 0)
    start.folder.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(start.error_path(1)))
    leave_word("nothing has moved for 20 s: rank 0 is missing", 1)
    end = ended(tmp_path, 0, [None, None], 1)
    assert (end.status, end.is_requeued) == (1, False)
    assert end.how.startswith("rank 1 on ") and "left with 1: nothing has moved for 20 s: rank 0" in end.how
    assert end.how in start.first_error()


def test_what_a_comparison_and_a_drawing_have_to_show_counts(tmp_path: Path) -> None:
    def show(path: str) -> str:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}")
        return newest(tmp_path)[1]

    assert show("slurm/7/start-0000/end.json") == "nothing yet"
    assert show("rows/unscrubbed.json") == "1 rows"
    assert show("runs/moo.0/attempt-0001/checkpoint-000004/manifest.json") == "step 4, 1 rows"
    assert show("rows/moo.0.json") == "step 4, 2 rows"
    assert newest(tmp_path / "other") == (-1, "nothing yet")
    assert show("images/forget/forget-0001.png") == "step 4, 2 rows, 1 pictures"
    assert show("generated/images/remain/remain-0001.png") == "step 4, 2 rows, 1 pictures, 1 pictures"


def test_an_element_of_a_sweep_is_judged_by_its_own_checkpoints(tmp_path: Path) -> None:
    """Which never said a word itself, while others go on."""
    for element, name in enumerate(("a", "b")):
        note_submission(tmp_path, Submission(f"7_{element}", f"7_{element}", "", "scrub", 1, 1, name))
    publish(tmp_path / "b", 5)
    start = Start(tmp_path / "slurm" / "7_0", 0)
    end = decide(tmp_path, start, 139, num_ranks=1, was_at_limit=False, max_fruitless=2)
    start.note_end(end)
    assert end.is_requeued and end.newest == "nothing yet"
    publish(tmp_path / "b", 10)
    end = decide(tmp_path, Start(start.folder.parent, 1), 139, num_ranks=1, was_at_limit=False, max_fruitless=2)
    assert not end.is_requeued
    publish(tmp_path / "a", 5)
    end = decide(tmp_path, Start(start.folder.parent, 1), 139, num_ranks=1, was_at_limit=False, max_fruitless=2)
    assert end.is_requeued and end.newest == "step 5"


@pytest.mark.parametrize(
    ("ran", "restart", "left_with", "told"),
    [
        (1739, "", 75, "start 0: asked to stop; the job is queued again (nothing yet)"),
        (1740, "", 75, "start 0: asked to stop shortly before its time limit; the job is queued again (nothing yet)"),
        (1740, "3", 75, "start 3: asked to stop shortly before its time limit; the job is queued again (nothing yet)"),
    ],
)
def test_the_batch_script_is_told_by_an_exit_status(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ran: int,
    restart: str,
    left_with: int,
    told: str,
) -> None:
    """A time limit's signal may come a minute early."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restart or "0")
    start = Start(tmp_path / "slurm" / "7", int(restart or 0))
    start.note_rank(0, status=75, host="node1", time=1.0)
    words = [str(tmp_path), "--status", "75", "--ran", str(ran), "--limit", "1800", "--fruitless", "2", "--ranks", "1"]
    assert main(words) == left_with
    assert capsys.readouterr().err == f"erasediff: {told}\n"
    noted = start.end()
    assert noted is not None and noted.is_requeued
    start.note_rank(0, status=69, host="node1", time=1.0)
    assert main(words) == 75
    assert "ranks left with 69; the job is queued again (nothing yet)" in capsys.readouterr().err
    start.note_rank(0, status=2, host="node1", time=1.0)
    assert main(words) == 2
    assert "rank 0 on node1 left with 2 (nothing yet)" in capsys.readouterr().err


def test_a_sweep_refuses_a_finished_run_of_other_settings(run_toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = run_toml.with_name("sweep.toml")
    sweep.write_text('output = "sweep"\nconfig = "run.toml"\n[runs.a]\n"train.seed" = 7\n')
    printed(["scrub", str(run_toml), "--output", "sweep/a", "--train.seed", "7"], capsys)
    words = ["launch", "sweep", str(sweep), "--dry-run"]
    assert "every run has finished" in printed(words, capsys)
    sweep.write_text(sweep.read_text().replace("7", "8"))
    said = printed(words, capsys, status=2)
    assert "run a: output = 'sweep/a' holds another run: train.seed = 7 there, 8 here" in said
