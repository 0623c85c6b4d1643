"""Whether Triton can build its driver here: by a compiler, or not at all where a cache has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import torch

from ...trainer.ranks.collectives import device_index, is_on_cuda
from .check import Check, Seen
from .config import DoctorConfig
from .finding import Finding, size
from .peers import Peers

_DRIVER_FILES = "*/cuda_utils*.so"
_INSTALL = "install gcc and Python's headers (Debian: python3-dev), or let TRITON_CACHE_DIR be a copy of a filled cache"


def _look(peers: Peers, config: DoctorConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"missing": what_is_missing(), "cache": None, "was_built": False, "filled": None}
    if is_on_cuda(config.engine):
        from triton import knobs

        from ...trainer.run.checks import check_kernels

        cache = Path(knobs.cache.dir)
        before = set(cache.glob(_DRIVER_FILES))
        index = device_index(os.environ.get("LOCAL_RANK"), torch.cuda.device_count(), peers.world_size)
        check_kernels(torch.device("cuda", index))
        found |= {"cache": str(cache), "was_built": set(cache.glob(_DRIVER_FILES)) != before}
    if config.fill_cache is not None and peers.rank == 0:
        found["filled"] = _fill(Path(config.fill_cache), peers.limit_seconds)
    return found


def what_is_missing() -> str | None:
    """What Triton's build of a module in C lacks, as it looks for it; None: nothing."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "there is no C compiler (CC, gcc, clang)"
    include = sysconfig.get_path("include")
    command = [compiler, "-fsyntax-only", f"-I{include}", "-x", "c", "-"]
    try:
        done = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True, check=False)
    except OSError as error:
        return f"the C compiler {compiler} cannot be started: {error.strerror}"
    if done.returncode == 0:
        return None
    if not (Path(include) / "Python.h").exists():
        return f"{include}/Python.h is missing"
    return f"the C compiler {compiler} fails: {(done.stderr.strip() or 'it says nothing').splitlines()[-1]}"


def _fill(folder: Path, limit_seconds: float) -> dict[str, str]:
    """In a process of its own: in this one Triton may have its driver already. Says what was done, or what is wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "erasediff.kernels.exercise"],
            env=os.environ | {"TRITON_CACHE_DIR": str(folder.absolute())},
            capture_output=True,
            text=True,
            timeout=0.9 * limit_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return {"problem": f"not done in {late.timeout:g} s; --timeout-seconds allows more"}
    said = (done.stdout.strip() or done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1]
    if done.returncode:
        return {"problem": said}
    num_kernels = len(list(folder.glob("*/*.cubin")))
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if not list(folder.glob(_DRIVER_FILES)):
        return {"problem": f"'{folder}' has no driver of Triton's after a start"}
    return {"done": f"the driver and {num_kernels} kernels, {size(num_bytes)}, {said}"}


def _judge(seen: Seen) -> list[Finding]:
    by_host = seen.by_host()
    lacking = {host: value["missing"] for host, value in by_host.items() if value["missing"] is not None}
    host, missing = next(iter(lacking.items()), (None, None))
    where = "" if len(by_host) == 1 else f"{host}: "
    caches = {value["cache"] for value in seen.values.values()} - {None}
    if caches:
        # it has started, or the look would have failed
        built = any(value["was_built"] for value in seen.values.values())
        how = "built here by the C compiler" if built else "taken from the cache"
        without = f" ({where}{missing})" if missing else ""
        findings = [Finding("ok", "Triton driver", f"{how}, {', '.join(sorted(caches))}{without}")]
    elif missing is None:
        told = "not needed on the CPU, where the kernels run in torch; a C compiler and Python.h are here"
        findings = [Finding("ok", "Triton driver", told)]
    elif seen.config.engine.device == "cpu":
        findings = [Finding("ok", "Triton driver", "not needed: engine.device = 'cpu', where the kernels run in torch")]
    else:
        told = f"{where}{missing}; the CPU needs none, but on a GPU the kernels could not start like this"
        findings = [Finding("warning", "Triton driver", told, _INSTALL)]
    filled = seen.values[0]["filled"]
    if filled is not None:
        findings.append(_judge_filled(filled, str(seen.config.fill_cache)))
    return findings


def _judge_filled(filled: dict[str, str], folder: str) -> Finding:
    if "problem" in filled:
        todo = "fill it on a machine like the nodes, with a GPU and a C compiler"
        return Finding("failed", "cache", f"'{folder}' is not filled: {filled['problem']}", todo)
    todo = "copy it to nodes of the same image and set TRITON_CACHE_DIR to the copy"
    return Finding("ok", "cache", f"'{folder}' holds {filled['done']}", todo)


CHECK = Check("Triton driver", _look, _judge)
