"""What follows when a start has ended: its ranks' own words, and srun's."""

from __future__ import annotations

from pathlib import Path

import pytest
from erasediff.launch.slurm.after import decide
from erasediff.launch.slurm.folder import End, Start

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
        ([69, None], 1, 1, True),  # a watchdog ended the other
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
