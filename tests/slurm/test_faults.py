"""Time limits, preemption, lost nodes and loops on a real SLURM: minutes each, for they wait for SLURM's own clocks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from erasediff.launch.slurm.folder import newest, starts, submissions
from ranks import check, run_ranks
from slurm_runs import Cluster, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# of steps: a run must be at work when SLURM's clock strikes
LONG_SECONDS = 90


@pytest.fixture(scope="module")
def num_long(undisturbed: Path) -> int:
    """Steps that take so long here."""
    seconds = [json.loads(line)["seconds"] for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    return int(LONG_SECONDS * len(seconds) / sum(seconds))


@pytest.fixture(scope="module")
def long_undisturbed(num_long: int, digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Run(digits, base_model, tmp_path_factory.mktemp("local") / "run", num_long)
    check(run_ranks(2, ["-m", "erasediff.launch", *run.scrub], timeout_seconds=800))
    return run.output


def test_a_real_time_limit(
    cluster_with_spare: Cluster,
    num_long: int,
    long_undisturbed: Path,
    digits: Path,
    base_model: Path,
    tmp_path: Path,
) -> None:
    run = Run(digits, base_model, tmp_path / "run", num_long)
    run.submit("--timeout-min", "2", "--signal-delay-s", "30")
    end = run.end(0)
    assert (end.status, end.is_requeued, end.kind) == (75, True, "time limit")
    assert run.until_end(800).name == "COMPLETED", run.said()
    assert len(starts(run.job_folder)) >= 2
    assert run.is_equal_to(long_undisturbed)


@pytest.mark.parametrize("partition", ["low", "low-at-once"])
def test_preemption_with_and_without_grace_time(
    cluster_with_spare: Cluster, undisturbed: Path, digits: Path, base_model: Path, tmp_path: Path, partition: str
) -> None:
    run = Run(digits, base_model, tmp_path / "run")
    run.submit("--partition", partition)
    run.until_step(5, start=0)
    # it takes both nodes whole, for a while
    other = ["sbatch", "--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 5", "--output=/dev/null"]
    subprocess.run(other, check=True, cwd=tmp_path, capture_output=True)
    assert run.until_end().name == "COMPLETED", run.said()
    assert len(starts(run.job_folder)) >= 2
    assert run.is_equal_to(undisturbed)


def test_a_node_that_loses_its_power(
    cluster_with_spare: Cluster, undisturbed: Path, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    run = Run(digits, base_model, tmp_path / "run")
    run.submit()
    run.until_step(5, start=0)
    cluster_with_spare.do("power-off", "node2")
    assert run.until_end().name == "COMPLETED", run.said()
    hosts = {said["host"] for said in starts(run.job_folder)[-1].ranks().values()}
    assert "node2" not in hosts and len(hosts) == 2
    assert run.is_equal_to(undisturbed)
    cluster_with_spare.do("power-on", "node2")


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_an_unplugged_node_changes_nothing_when_it_is_back(
    cluster_with_spare: Cluster, undisturbed: Path, digits: Path, base_model: Path, tmp_path: Path, node: str
) -> None:
    """The first of a job's nodes carries the batch script and rank 0."""
    run = Run(digits, base_model, tmp_path / "run")
    spare = ["scontrol", "update", "nodename=node3"]
    subprocess.run([*spare, "state=drain", "reason=spare"], check=True)
    run.submit()
    run.until_step(5, start=0)
    subprocess.run([*spare, "state=resume"], check=True)
    cluster_with_spare.do("unplug", node)
    run.until("a second start", lambda: starts(run.job_folder)[-1].number == 1)
    cluster_with_spare.do("plug", node)
    assert run.until_end().name == "COMPLETED", run.said()
    assert node not in {said["host"] for said in starts(run.job_folder)[-1].ranks().values()}
    assert run.is_equal_to(undisturbed)
    assert run.state().restarts == 1  # the batch script that was left over asked for nothing


def test_a_controller_that_is_away_while_the_ranks_end(
    cluster_with_spare: Cluster, undisturbed: Path, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    """The batch script asks until it is back; until then nobody takes the job for ended, nor submits another one."""
    run = Run(digits, base_model, tmp_path / "run")
    job = run.submit()
    run.until_step(5, start=0)
    subprocess.run(["scancel", "--signal", "USR2", job], check=True)
    cluster_with_spare.do("stop-controller")
    assert run.end(0).is_requeued
    assert run.state().name == "UNREACHABLE"
    for words in (["cancel", "run"], ["slurm", "--nodes", "2", *run.scrub]):
        refused = run.launch(*words)
        assert refused.returncode == 2 and "SLURM's controller does not answer" in refused.stderr
    told = run.launch("status", "run").stdout
    assert "nobody of SLURM answers, and it did not say how it ended" in told and "start 0 on" in told
    cluster_with_spare.do("start-controller")
    assert run.until_end().name == "COMPLETED", run.said()
    assert len(starts(run.job_folder)) == 2
    assert run.is_equal_to(undisturbed)


def test_a_loop_ends_and_says_so(cluster_with_spare: Cluster, digits: Path, base_model: Path, tmp_path: Path) -> None:
    """Rank 1 is killed at every start, before there is a checkpoint."""
    run = Run(digits, base_model, tmp_path / "run")
    run.scrub += ["--train.checkpointing-steps", "0"]
    run.submit()
    for number in range(2):
        run.until("a step", lambda attempt=number + 1: has_stepped(run, attempt))
        os.kill(run.pid(rank=1), signal.SIGKILL)
    state = run.until_end()
    assert state.name == "FAILED"
    end = run.end(1)
    assert not end.is_requeued and "2 starts have ended so without a new checkpoint" in end.how
    assert len(starts(run.job_folder)) == 2
    told = run.launch("status", "run").stdout
    assert "FAILED" in told and "2 starts have ended so" in told


def has_stepped(run: Run, attempt: int) -> bool:
    path = run.output / f"attempt-{attempt:04d}" / "metrics.jsonl"
    return path.exists() and bool([json.loads(line) for line in path.read_text().splitlines()[:1]])


def test_one_run_of_a_sweep_is_queued_again_alone(
    cluster_with_spare: Cluster, num_long: int, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    """The element whose own number is the array's, which means all of them to SLURM."""
    shared, split = Run(digits, base_model, tmp_path / "unused"), digits / "split"
    (tmp_path / "shared.toml").write_text(
        f'forget = "{split}/forget"\nremain = "{split}/remain"\noutput = "unused"\n'
        f'[model]\npath = "{base_model}"\nnull_class = 10\n[engine]\ndevice = "cpu"\n'
        f"[train]\nmax_train_steps = {num_long}\ntrain_batch_size = 4\ncheckpointing_steps = 5\n"
    )
    (tmp_path / "sweep.toml").write_text('output = "sweep"\nconfig = "shared.toml"\n[runs.a]\n[runs.b]\n')
    done = shared.launch("sweep", "sweep.toml", "--timeout-min", "15")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {one.name: one.job for one in submissions(tmp_path / "sweep")}
    try:
        _until(lambda: all(newest(tmp_path / "sweep" / name)[0] >= 5 for name in jobs))
        told = {name: _fields(job) for name, job in jobs.items()}
        (first,) = (name for name, fields in told.items() if fields["JobId"] == fields["ArrayJobId"])
        (other,) = jobs.keys() - {first}
        subprocess.run(["scancel", "--signal", "USR2", jobs[first]], check=True)
        _until(lambda: _fields(jobs[first])["Restarts"] == "1")
        assert (_fields(jobs[other])["JobState"], _fields(jobs[other])["Restarts"]) == ("RUNNING", "0")
    finally:
        for name in jobs:
            shared.launch("cancel", f"sweep/{name}")
    _until(lambda: all(_fields(job)["JobState"] == "CANCELLED" for job in jobs.values()))
    ends = [starts(tmp_path / "sweep" / "slurm" / jobs[name])[0].end() for name in (first, other)]
    assert ends[0] is not None and ends[0].is_requeued
    assert ends[1] is None or not ends[1].is_requeued


def _fields(job: str) -> dict[str, str]:
    said = subprocess.run(["scontrol", "show", "job", "--oneliner", job], capture_output=True, text=True, check=True)
    (line,) = said.stdout.splitlines()
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def _until(reached: Callable[[], bool], timeout_seconds: float = 200) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)
