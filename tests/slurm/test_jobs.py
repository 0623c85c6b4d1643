"""Jobs on two nodes of a real SLURM: undisturbed, asked to stop, queued again, with a rank that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from erasediff.launch.cli import main
from erasediff.launch.slurm.folder import starts
from erasediff.shards import Dataset
from slurm_runs import NUM_STEPS, Cluster, Run

pytestmark = pytest.mark.timeout(600)


def test_two_nodes_give_the_result_of_two_ranks_here(
    cluster: Cluster, undisturbed: Path, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    """Each node reads the data from a copy on a disk of its own. The paths hold a space and a quote."""
    run = Run(digits, base_model, tmp_path / "a run's")
    near = tmp_path / "near"
    near.mkdir()
    for node in ("node1", "node2"):
        cluster.do("exec", node, "mount", "-t", "tmpfs", "tmpfs", str(near))
    resources = ["--nodes", "2", "--timeout-min", "15", "--stage-to", str(near)]
    waited = run.launch("slurm", *resources, "--wait", *run.scrub)
    assert waited.returncode == 0, waited.stdout + waited.stderr
    assert "RUNNING on node[1-2]" in waited.stdout and f"scrub {NUM_STEPS}/{NUM_STEPS}" in waited.stdout
    hosts = {said["host"] for said in starts(run.job_folder)[0].ranks().values()}
    assert hosts == {"node1", "node2"}
    assert run.is_equal_to(undisturbed)
    told = run.launch("status", "a run's").stdout
    assert "COMPLETED" in told and "start 0 on node1, node2: finished" in told
    logs = run.launch("logs", "a run's").stdout
    assert "rank 0," in logs and "rank 1," in logs
    for node in ("node1", "node2"):
        copies = cluster.do("exec", node, "sh", "-c", f"cd {near}; find . -name '*.tar' | sort").split()
        assert sorted(Path(copy).name for copy in copies) == ["digits-000000.tar", "digits-forget-000000.tar"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a run's", "near"] and not list(near.iterdir())
    # each node's share: half of all samples, some read ahead
    (attempt,) = (json.loads(path.read_text()) for path in run.output.glob("attempt-*/attempt.json"))
    sets = [Dataset.open(digits / "split" / name) for name in ("forget", "remain")]
    sample_bytes = sum(float(data.index["length"].mean()) for data in sets)
    share = NUM_STEPS * 4 / 2 * sample_bytes
    assert all(0.95 * share < num_bytes < 1.15 * share for num_bytes in attempt["num_bytes_read"])


def test_numbers_of_nodes_are_rows_of_one_table(
    cluster: Cluster, digits: Path, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/on-a-cluster.md has it."""
    run = Run(digits, base_model, tmp_path / "nodes")
    bench = ["bench", "--model.path", str(base_model), "--model.null-class", "10", "--engine.device", "cpu"]
    bench += ["--rows", str(run.output), "--repeats", "1", "--warmup", "0", "--train.train-batch-size", "4"]
    for nodes in ("1", "2"):
        waited = run.launch("slurm", "--nodes", nodes, "--timeout-min", "15", "--wait", *bench)
        assert waited.returncode == 0, waited.stdout + waited.stderr
    rows = [json.loads(line) for line in (run.output / "bench.jsonl").read_text().splitlines()]
    assert [(row["num_nodes"], row["num_ranks"], row["status"]) for row in rows] == [(1, 1, "ok"), (2, 2, "ok")]
    assert rows[1]["bytes_sent"] > rows[0]["bytes_sent"] == 0
    slower = tmp_path / "slower.jsonl"
    rows[1] |= {"seconds": 1e3, "seconds_by_round": [1e3] * 3}
    slower.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["bench", "--compare", str(run.output / "bench.jsonl"), str(slower)]) == 1
    said = capsys.readouterr().err
    assert ", 2 ranks on 2 nodes: 1000 s, " in said and ";" not in said


def test_a_job_that_is_asked_queued_again_and_killed_ends_as_if_undisturbed(
    cluster: Cluster, undisturbed: Path, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    """The ranks have the profile's variables, and listen where it says."""
    profile = tmp_path / "cluster.toml"
    profile.write_text(
        """setup = ['echo "$NOTE, $(hostname)" >> set-up']\nnetwork_interface = "eth0"\n"""
        """environment = {NOTE = "two words"}\n"""
    )
    run = Run(digits, base_model, tmp_path / "run")
    job = run.submit("--profile", str(profile))
    run.until_step(5, start=0)
    variables = Path(f"/proc/{run.pid(rank=1)}/environ").read_bytes().split(b"\0")
    assert {b"NOTE=two words", b"GLOO_SOCKET_IFNAME=eth0", b"HF_HUB_OFFLINE=1"} <= set(variables)
    subprocess.run(["scancel", "--signal", "USR2", job], check=True)
    end = run.end(0)
    assert (end.status, end.is_requeued) == (75, True)
    assert {said["status"] for said in starts(run.job_folder)[0].ranks().values()} == {75}
    stopped_at = run.step

    run.until_step(stopped_at + 5, start=1)
    subprocess.run(["scontrol", "requeue", job], check=True)

    run.until_step(run.step + 5, start=2)
    os.kill(run.pid(rank=1), signal.SIGKILL)
    end = run.end(2)
    assert end.is_requeued and "rank 1" in end.how

    assert run.until_end().name == "COMPLETED", run.said()
    assert run.is_equal_to(undisturbed)
    # on a very slow machine SLURM has been seen to send a start's signal again, a minute later, to the next one
    numbers = [start.number for start in starts(run.job_folder)]
    assert numbers[:4] == [0, 1, 2, 3]
    assert (tmp_path / "set-up").read_text().splitlines() == len(numbers) * ["two words, node1"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--partition", "nowhere"], "invalid partition specified: nowhere"),
        (["--nodes", "4"], "Requested node configuration is not available"),
        (["--cpus-per-task", "400"], "Requested node configuration is not available"),
    ],
)
def test_what_slurm_refuses_is_said_at_once(
    cluster: Cluster,
    digits: Path,
    base_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: str,
) -> None:
    run = Run(digits, base_model, tmp_path / "run")
    assert main(["launch", "slurm", "--timeout-min", "15", *options, *run.scrub]) == 2
    said = capsys.readouterr().err
    assert said.startswith("erasediff: SLURM refuses the job: ") and expected in said and said.count("\n") == 1


def test_a_folder_that_the_nodes_do_not_share_is_named(
    cluster: Cluster, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    run = Run(digits, base_model, tmp_path / "own" / "run")
    (tmp_path / "own").mkdir()
    for node in ("node1", "node2"):
        cluster.do("exec", node, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "own"))
    done = run.launch("slurm", "--nodes", "2", "--timeout-min", "15", "--wait", *run.scrub)
    assert done.returncode == 1
    assert "is it on a file system that all nodes share?" in done.stdout + done.stderr


def test_a_sweep_shows_what_failed_and_runs_it_alone(
    cluster: Cluster, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    """One of two runs has forget samples that cannot be read."""
    shared = Run(digits, base_model, tmp_path / "unused", num_steps=2)
    split = digits / "split"
    shutil.copytree(split / "forget", tmp_path / "damaged")
    (shard,) = (tmp_path / "damaged").glob("*.tar")
    whole = shard.read_bytes()
    shard.write_bytes(bytes(len(whole)))
    (tmp_path / "shared.toml").write_text(
        f'forget = "{split}/forget"\nremain = "{split}/remain"\noutput = "unused"\n'
        f'[model]\npath = "{base_model}"\nnull_class = 10\n[engine]\ndevice = "cpu"\n'
        "[train]\nmax_train_steps = 2\ntrain_batch_size = 4\n"
    )
    (tmp_path / "sweep.toml").write_text(
        'output = "sweep"\nconfig = "shared.toml"\n[runs.well]\n[runs.ill]\nforget = "damaged"\n'
    )
    sweep = ["sweep", "sweep.toml", "--timeout-min", "15"]
    done = shared.launch(*sweep, "--wait")
    assert done.returncode == 1, done.stdout + done.stderr
    well, ill = done.stdout.splitlines()[-2:]
    assert well.split()[0] == "well" and "finished" in well and "model" in well
    assert ill.split()[0] == "ill" and "failed" in ill and "left with 1" in ill and "digits-forget" in ill
    assert (tmp_path / "sweep" / "well" / "model").exists() and not (tmp_path / "sweep" / "ill" / "model").exists()
    told = shared.launch("status", "sweep/ill").stdout
    assert "FAILED" in told and "left with 1" in told
    # mended, the same command runs what has failed
    shard.write_bytes(whole)
    again = shared.launch(*sweep, "--doctor", "--wait")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.startswith("1 runs as job")
    assert "'sweep/ill' can be written" in shared.launch("logs", "sweep/ill").stdout
    assert (tmp_path / "sweep" / "ill" / "model").exists()
