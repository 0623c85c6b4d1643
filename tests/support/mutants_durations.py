"""A pytest plugin for benchmarks/mutants.py: how long each test took, its fixtures included, a line a phase."""

import json
import os
from pathlib import Path

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    with Path(os.environ["MUTANTS_DURATIONS"]).open("a") as file:
        file.write(json.dumps([report.nodeid, report.duration]) + "\n")
