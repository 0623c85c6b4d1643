"""Freed memory is used again until a model ends, unless whoever starts the process has chosen otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from erasediff.trainer.ranks.freed_memory import CHOSEN

# pages that the kernel hands out in three steps with gradients of 64 MB, after three that do not count
FAULTS = """
import resource, torch
from erasediff.trainer.config import EngineConfig
from erasediff.trainer.ranks import collectives
if {sets_up}:
    collectives.set_up(EngineConfig(device="cpu"))
layers = torch.nn.Sequential(*(torch.nn.Linear(4096, 4096) for _ in range(3)))
def faults_of(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        layers(torch.ones(8, 4096)).sum().backward()
        layers.zero_grad(set_to_none=True)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults_of(3)
print(faults_of(3))
"""
GRADIENT = 4096 * 4096 * 4 // os.sysconf("SC_PAGE_SIZE")  # in pages


def faults(*, sets_up: bool = True, **chosen: str) -> int:
    return int(_run(FAULTS.format(sets_up=sets_up), **chosen))


def _run(code: str, **chosen: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN} | chosen
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's rules")
def test_a_rank_on_a_cpu_uses_again_what_it_frees() -> None:
    assert faults(sets_up=False) > 8 * GRADIENT  # else this test shows nothing
    assert faults() < GRADIENT


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's rules")
def test_what_the_environment_says_of_memory_stays() -> None:
    assert faults(MALLOC_TRIM_THRESHOLD_="131072") > 8 * GRADIENT


HELD = """
import torch
from erasediff.trainer.config import EngineConfig
from erasediff.trainer.ranks import collectives, freed_memory
def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * {page} / 1e6
device = collectives.set_up(EngineConfig(device="cpu"))
before = megabytes()
dropped, kept = zip(*[(torch.ones(4_000_000), torch.ones(1_000)) for _ in range(10)])
del dropped
held = megabytes() - before
freed_memory.give_back(device)
print(held, megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's rules")
def test_what_a_model_leaves_goes_back_though_something_above_it_stays() -> None:
    held, left = map(float, _run(HELD.format(page=os.sysconf("SC_PAGE_SIZE"))).split())
    assert held > 100
    assert left < 20
