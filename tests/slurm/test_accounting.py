"""The same on a SLURM that keeps accounts (slurmdbd and MariaDB)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from erasediff.launch.slurm.controller import _ask_accounting
from slurm_runs import Cluster, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_with_accounting(
    cluster_with_accounting: Cluster, undisturbed: Path, digits: Path, base_model: Path, tmp_path: Path
) -> None:
    run = Run(digits, base_model, tmp_path / "run")
    job = run.submit()
    run.until_step(5, start=0)
    subprocess.run(["scancel", "--signal", "USR2", job], check=True)
    assert run.until_end().name == "COMPLETED", run.said()
    assert run.is_equal_to(undisturbed)
    assert "COMPLETED" in run.launch("status", "run").stdout
    state = _ask_accounting(job)
    assert state is not None and state.name == "COMPLETED"
