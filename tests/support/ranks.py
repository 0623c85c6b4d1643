"""Starts real processes, one a rank, with the environment a launcher would give them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from processes import start

SUPPORT = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def run_ranks(
    world_size: int,
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    timeout_seconds: float = 280,
    environment: Mapping[str, str] | None = None,
    fresh: bool = False,
) -> list[subprocess.CompletedProcess[str]]:
    """Runs `command` (arguments of this Python) on every rank, one thread each; waits for all of them.

    environment: RANK in a value stands for each one's number. `fresh`: each imports by itself (`processes`).
    """
    port = free_port()
    running = []
    for rank in range(world_size):
        variables = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "PYTHONWARNINGS": "ignore",
            **{name: value.replace("RANK", str(rank)) for name, value in (environment or {}).items()},
        }
        running.append(start(command, variables, cwd=cwd, fresh=fresh))
    finished = []
    try:
        for process in running:
            stdout, stderr = process.communicate(timeout=timeout_seconds)
            finished.append(subprocess.CompletedProcess(command, process.wait(), stdout, stderr))
    finally:
        for process in running:
            process.kill()
    return finished


def check(finished: Sequence[subprocess.CompletedProcess[str]], status: int = 0) -> None:
    """Fails with the output of the first rank that leaves with another exit status."""
    for rank, process in enumerate(finished):
        assert process.returncode == status, f"rank {rank} left with {process.returncode}:\n{process.stderr[-3000:]}"
