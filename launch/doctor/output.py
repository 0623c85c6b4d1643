"""The run's folder: every rank may write there, all see the same files, and a lock of one keeps the others out."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...trainer.run.folder import LOGS_NAME
from .check import Check, Seen
from .config import DoctorConfig
from .finding import Finding
from .peers import Peers

# network file systems show a new file to other hosts late
_SEEN_SECONDS = 5.0
# the part of a look's time in which a rank waits for another
_PATIENCE = 0.7
# what flock says where the file system has no locks
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_TRY_LOCK = """
import fcntl, sys
try: fcntl.flock(open(sys.argv[1], "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: print("refused")
"""


def _look(peers: Peers, config: DoctorConfig) -> dict[str, Any]:
    """Rank 0 writes first and locks; the others look, write and try the lock; rank 0 looks."""
    output = Path(config.output)
    try:
        if output.exists() and not output.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is a file: name a folder", str(output))
        return _look_first(peers, output) if peers.rank == 0 else _look_after(peers, output)
    finally:  # whoever waits for it need not wait longer
        peers.tell("probe" if peers.rank == 0 else f"probe/{peers.rank}", "")


def _look_first(peers: Peers, output: Path) -> dict[str, Any]:
    others = sorted(set(peers.present()) - {0})
    # in logs/, which a run does not mind finding there
    folder = output / LOGS_NAME / f"doctor-{secrets.token_hex(4)}"
    until = time.monotonic() + _PATIENCE * peers.limit_seconds
    with _made(folder):
        _write(folder / "0", b"0" * (1 << 20))
        lock, held = _lock(folder / "lock")
        try:
            peers.tell("probe", folder.name)
            if not others:
                tried = [sys.executable, "-c", _TRY_LOCK, str(folder / "lock")]
                second = subprocess.run(tried, capture_output=True, text=True, check=False).stdout.strip()
                return {"lock": held, "second": second or "not refused"}
            for rank in others:
                peers.hear(f"probe/{rank}", max(0.0, until - time.monotonic()))
            unseen = [rank for rank in others if not _see(folder / str(rank), seconds=0.5)]
        finally:
            os.close(lock)
    return {"lock": held, "unseen": unseen}


def _look_after(peers: Peers, output: Path) -> dict[str, Any]:
    name = peers.hear("probe", _PATIENCE * peers.limit_seconds)
    if not name:
        return {"sees": None, "lock": None}
    folder = output / LOGS_NAME / name
    if not _see(folder / "0", _SEEN_SECONDS):
        return {"sees": False, "lock": None}
    _write(folder / str(peers.rank), b"1")
    lock, held = _lock(folder / "lock")
    os.close(lock)
    return {"sees": True, "lock": held}


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder and leaves nothing of it, nor of those above it that were not there."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in new[1:]:
            with suppress(OSError):
                path.rmdir()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _see(path: Path, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return bool(path.read_bytes())


def _lock(path: Path) -> tuple[int, str]:
    """Tries to lock a file: its descriptor, and "held", "refused" or why there are no locks."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return number, "refused"
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(number)
            raise
        return number, f"flock: {error.strerror}"
    return number, "held"


def _judge(seen: Seen) -> list[Finding]:
    first = seen.values[0]
    others = {rank: value for rank, value in seen.values.items() if rank}
    where = f"'{seen.config.output}'"
    blind = sorted({rank for rank, value in others.items() if not value["sees"]} | {*first.get("unseen", [])})
    if blind:
        found = f"{seen.peers.name(*blind)} and rank 0 do not see each other's files in {where}"
        shared = Finding("failed", "output", found, "name a folder on a file system that all nodes share")
        return [shared, Finding("failed", "locks", "not tried: the output is not shared")]
    hosts = len(seen.by_host())
    shared = f", files seen by all {len(seen.values)} ranks on {hosts} host{'s' if hosts > 1 else ''}" if others else ""
    return [Finding("ok", "output", f"{where} can be written{shared}"), _judge_locks(seen, hosts)]


def _judge_locks(seen: Seen, hosts: int) -> Finding:
    first = seen.values[0]
    todo = "a run started twice would not be refused at once: mount with locks (Lustre: -o flock), or take care"
    if first["lock"] != "held":
        return Finding("warning", "locks", f"'{seen.config.output}': {first['lock']}", todo)
    tries = {0: first["second"]} if "second" in first else {r: v["lock"] for r, v in seen.values.items() if r}
    not_refused = [rank for rank, tried in tries.items() if tried != "refused"]
    if not_refused:
        found = f"{seen.peers.name(*not_refused)} got the lock that rank 0 holds in '{seen.config.output}'"
        return Finding("warning", "locks", found, todo)
    return Finding("ok", "locks", f"refused to a second {'rank' if hosts == 1 else 'host'} while one holds them")


CHECK = Check("output", _look, _judge, "name a folder that every rank can write to")
