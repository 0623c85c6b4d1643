"""Processes of this Python that need not import torch, diffusers and DeepSpeed again, which takes ten seconds each.

They are forks of one that has imported those and nothing of ours, with arguments, environment, folder, session and
output of their own. So are the ranks that a launcher among them starts. Started anew they are where `fresh` is asked
for, on CUDA, which no fork may share, and for all with FRESH in the environment, as who measures coverage needs it.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeAlias
from unittest.mock import patch

import torch

FRESH = "ERASEDIFF_TESTS_FRESH"

# what a rank has imported before its first line of ours
HEAVY = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d",
    "diffusers.pipelines.ddpm",
    "diffusers.schedulers",
    "deepspeed.ops",
    "torch.distributed.elastic.multiprocessing",
)
# as trainer/engine/stage3.py has them before it imports DeepSpeed
DEEPSPEED = {"DS_ACCELERATOR": "cpu", "DEEPSPEED_LOG_LEVEL": "error"}

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(HEAVY))


class Fork:
    """As much of a `subprocess.Popen` with both outputs as text as tests use."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], cwd: str, new_session: bool):
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        given = (list(arguments), dict(environment), cwd, new_session, self._outputs)
        self._process = _context.Process(target=_begin, args=given, daemon=True)
        with patch.dict(os.environ, DEEPSPEED):
            forkserver.ensure_running()
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        stdout, stderr = (path.read_text() for path in self._outputs)
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Started: TypeAlias = Fork | subprocess.Popen[str]


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    cwd: Path | None = None,
    new_session: bool = False,
    fresh: bool = False,
) -> Started:
    """A process with these arguments of Python."""
    if not (fresh or FRESH in os.environ or torch.cuda.is_available()):
        return Fork(arguments, environment, str(cwd or Path.cwd()), new_session)
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=new_session,
    )


def _begin(
    arguments: list[str], environment: dict[str, str], cwd: str, new_session: bool, outputs: list[Path]
) -> NoReturn:
    """In the fork."""
    if new_session:
        os.setsid()
    os.chdir(cwd)
    for stream, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess_handler.Popen = _popen  # pyright: ignore[reportAttributeAccessIssue]
    _live(arguments, environment)


def _popen(args: Sequence[str], env: Mapping[str, str], **options: Any) -> subprocess.Popen[Any]:
    """What torch's launcher starts a rank with: the fork, with all its files closed, never comes to exec."""
    program, *arguments = args
    assert program == sys.executable

    def live() -> None:
        os.closerange(3, 1 << 16)
        gc.enable()  # Popen disables it around a fork
        _live(arguments, env)

    return subprocess.Popen(args, preexec_fn=live, **options)


def _live(arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Does what `python *arguments` does, and leaves."""
    status: Any = 1
    try:
        status = _run(list(arguments), environment)
    except SystemExit as leave:
        status = leave.code or 0
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    try:
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _run(arguments: list[str], environment: Mapping[str, str]) -> int:
    # exec would drop what the parent does on a signal, and keep which of them it ignores
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    if environment.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    # what stands for an editable installation is no folder
    installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix, "__editable__"))]
    of_environment = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    script = arguments.pop(0)
    first = "" if script == "-c" else str(Path.cwd()) if script == "-m" else str(Path(script).parent)
    sys.path[:] = [first, *of_environment, *installed]
    if script == "-c":
        code, *rest = arguments
        sys.argv = ["-c", *rest]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(code, main.__dict__)
    elif script == "-m":
        module, *rest = arguments
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
    return 0
