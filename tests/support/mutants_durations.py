"""A pytest plugin for benchmarks/mutants.py: how long each test took, how it ended, and what its processes run.

Processes that a test starts are measured by what COVERAGE_PROCESS_START names: they read it when they start, the test's
name with it. pytest's own processes, which are measured by pytest-cov, started without.
"""

import json
import os
from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # before fixtures start processes
def pytest_runtest_setup() -> None:
    os.environ["COVERAGE_PROCESS_START"] = os.environ["MUTANTS_COVERAGE"]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # who started the workers hears of it too
        return
    with Path(os.environ["MUTANTS_DURATIONS"]).open("a") as file:
        file.write(json.dumps([report.nodeid, report.duration, report.outcome]) + "\n")
