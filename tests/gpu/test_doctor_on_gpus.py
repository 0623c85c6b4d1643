"""What the doctor finds and fills on a machine with a GPU. Skipped where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def doctor(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "erasediff.launch", "launch", "doctor", *words]
    variables = os.environ | {"PYTHONWARNINGS": "ignore"} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("gcc") is None and shutil.which("clang") is None, reason="needs a C compiler")
def test_a_filled_cache_stands_in_for_the_compiler(tmp_path: Path) -> None:
    cache, empty, tools = tmp_path / "cache", tmp_path / "empty", tmp_path / "tools"
    filled = doctor("--output", str(tmp_path), "--fill-cache", str(cache))
    assert filled.returncode == 0, filled.stdout + filled.stderr
    assert "holds the driver and" in filled.stdout
    # Python asks `file` what platform it is on, and Triton puts the answer into the key of its cache
    tools.mkdir()
    if file := shutil.which("file"):
        (tools / "file").symlink_to(file)
    bare = {"PATH": str(tools), "CC": ""}
    with_cache = doctor("--output", str(tmp_path), TRITON_CACHE_DIR=str(cache), **bare)
    assert with_cache.returncode == 0, with_cache.stdout + with_cache.stderr
    assert "taken from the cache" in with_cache.stdout
    without = doctor("--output", str(tmp_path), TRITON_CACHE_DIR=str(empty), **bare)
    assert without.returncode == 1 and "failed   Triton driver" in without.stdout
