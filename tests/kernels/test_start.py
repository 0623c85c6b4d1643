"""What Triton builds when a kernel first starts: with a compiler, from a cache, and without either."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Triton's own build, of a module that includes Python.h as its driver does; the driver itself needs libcuda
PROGRAM = """
from erasediff.kernels.start import KernelError, start
from triton.runtime.build import compile_module_from_src

SOURCE = '''
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "probe", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_probe(void) { return PyModule_Create(&module); }
'''
try:
    start(lambda: compile_module_from_src(SOURCE, "probe"))
    print("started")
except KernelError as error:
    print(error)
"""


def start(cache: Path, path: str, **environment: str) -> str:
    variables = {"TRITON_CACHE_DIR": str(cache), "PATH": path, "HOME": str(cache), **environment}
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "PATH")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=kept | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_compiler_and_an_empty_cache_are_one_clear_line(tmp_path: Path) -> None:
    said = start(tmp_path / "empty", path="")
    assert "Failed to find C compiler" in said
    assert "install a C compiler and Python's headers (Debian: gcc, python3-dev)" in said
    assert "TRITON_CACHE_DIR" in said
    assert said.count("\n") == 1


def test_a_compiler_without_pythons_headers_is_the_same_line(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'Python.h: No such file or directory' >&2\nexit 1\n")
    compiler.chmod(0o755)
    said = start(tmp_path / "empty", path=os.environ["PATH"], CC=str(compiler))
    assert "the C compiler failed, Python.h may be missing" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(shutil.which("gcc") is None and shutil.which("clang") is None, reason="needs a C compiler")
def test_what_was_built_once_needs_no_compiler(tmp_path: Path) -> None:
    assert start(tmp_path / "cache", path=os.environ["PATH"]) == "started\n"
    # Python asks `file` what platform it is on, and Triton puts the answer into the key of its cache
    tools = tmp_path / "tools"
    tools.mkdir()
    if file := shutil.which("file"):
        (tools / "file").symlink_to(file)
    assert start(tmp_path / "cache", path=str(tools)) == "started\n"
