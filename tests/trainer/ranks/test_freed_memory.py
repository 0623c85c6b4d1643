"""Freed memory is used again until a model ends, unless whoever starts the process has chosen otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from erasediff.trainer.ranks import freed_memory
from erasediff.trainer.ranks.freed_memory import CHOSEN, NAMED

# pages that the kernel hands out in three steps with three gradients of 64 MB each, after six that do not count
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
faults_of(6)
print(faults_of(3))
"""
GRADIENT = 4096 * 4096 * 4 // os.sysconf("SC_PAGE_SIZE")  # in pages


def faults(*, sets_up: bool = True, **chosen: str) -> int:
    return int(_run(FAULTS.format(sets_up=sets_up), **chosen))


def _run(code: str, **chosen: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in {*CHOSEN, *NAMED}} | chosen
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's rules")
def test_a_rank_on_a_cpu_uses_again_what_it_frees() -> None:
    assert faults(sets_up=False) > 8 * GRADIENT  # else this test shows nothing
    # a heap still grows now and then, where a hole is some bytes too small for the next gradient
    assert faults() < 3 * GRADIENT


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's rules")
def test_what_the_environment_says_of_memory_stays() -> None:
    assert faults(MALLOC_TRIM_THRESHOLD_="131072") > 8 * GRADIENT
    assert faults(GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072") > 8 * GRADIENT


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's rules")
@pytest.mark.parametrize(
    ("preloaded", "tunables", "is_chosen"),
    [
        ("", "", False),
        # clusters load what traces a job into each
        ("/usr/lib/libdarshan.so", "glibc.pthread.rseq=0", False),
        ("/usr/lib/libjemalloc.so.2", "", True),
        ("/usr/lib/libtcmalloc_minimal.so", "", True),
        ("", "glibc.pthread.rseq=0:glibc.malloc.mmap_max=4", True),
    ],
)
def test_what_else_is_loaded_or_tuned_says_nothing_of_memory(
    preloaded: str, tunables: str, is_chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LD_PRELOAD", preloaded)
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    assert freed_memory._is_chosen() is is_chosen


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
