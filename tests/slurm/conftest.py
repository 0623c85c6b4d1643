"""A real SLURM of two or three nodes on this machine (cluster.sh). Skipped where it is not installed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ranks import check, run_ranks
from slurm_runs import CLUSTER, MAY_SKIP, Cluster, Run

FOLDER = "/tmp/erasediff-slurm"


def started(number_of_nodes: int, accounting: str = "none") -> Iterator[Cluster]:
    """One cluster a machine at a time: its names and addresses are fixed."""
    missing = None
    if os.geteuid() != 0:
        missing = "needs root: a node is a set of namespaces"
    elif shutil.which("slurmctld") is None:
        missing = f"SLURM is not installed: {CLUSTER} install"
    elif accounting == "dbd" and shutil.which("slurmdbd") is None:
        missing = f"SLURM's accounting is not installed: ACCT=dbd {CLUSTER} install"
    if missing is not None:
        if not MAY_SKIP:
            pytest.fail(f"the SLURM tests would be skipped: {missing}")
        pytest.skip(missing)
    with Path(f"{FOLDER}-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = f"{FOLDER}-{number_of_nodes}-{accounting}"
        cluster = Cluster(os.environ | {"NODES": str(number_of_nodes), "ACCT": accounting, "SLAB_DIR": folder})
        cluster.do("stop", "--purge")  # of tests that were killed
        cluster.do("start")
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = f"{folder}/etc/slurm.conf"
        try:
            yield cluster
        finally:
            cluster.do("stop", "--purge")
            if before is None:
                del os.environ["SLURM_CONF"]
            else:
                os.environ["SLURM_CONF"] = before


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, without accounting."""
    yield from started(2)


@pytest.fixture(scope="module")
def cluster_with_spare() -> Iterator[Cluster]:
    """Three nodes."""
    yield from started(3)


@pytest.fixture(scope="module")
def cluster_with_accounting() -> Iterator[Cluster]:
    yield from started(2, "dbd")


@pytest.fixture(scope="session")
def undisturbed(digits: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of these tests on two ranks of this machine, without SLURM."""
    run = Run(digits, base_model, tmp_path_factory.mktemp("local") / "run")
    check(run_ranks(2, ["-m", "erasediff.launch", *run.scrub]))
    return run.output


@pytest.fixture(autouse=True)
def _no_jobs_left() -> Iterator[None]:
    yield
    if os.environ.get("SLURM_CONF", "").startswith(FOLDER):  # no other cluster's
        subprocess.run(["scancel", "--user", "root"], check=False)
