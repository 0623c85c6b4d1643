"""A pytest plugin for benchmarks/mutants.py: how long each test took and how it ended, a line a phase."""

import json
import os
from pathlib import Path

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # who started the workers hears of it too
        return
    with Path(os.environ["MUTANTS_DURATIONS"]).open("a") as file:
        file.write(json.dumps([report.nodeid, report.duration, report.outcome]) + "\n")
