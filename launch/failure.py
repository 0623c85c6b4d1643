"""What a launcher says of the rank that failed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

SHOWN_LINES = 30
ROOM_FOR_LOGS_BYTES = 1 << 20


def _message(failure: ProcessFailure) -> str:
    """What the rank left word of; torch keeps it as the file has it."""
    message: Any = failure.message
    return str(message["message"] if isinstance(message, dict) and "message" in message else message)


def report(failure: ProcessFailure, log: str) -> int:
    """Shows the error of the rank that failed first, unless it is rank 0's own, which is shown; its exit status."""
    status = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    if shutil.disk_usage(log).free < ROOM_FOR_LOGS_BYTES:
        print(
            f"erasediff: the disk of '{Path(log).parents[3]}' is full, what the ranks said last may be lost; "
            "free some space and give the same command again",
            file=sys.stderr,
        )
    if failure.local_rank == 0 and failure.exitcode > 0:
        return status
    how = f"left with exit code {status}" if failure.exitcode > 0 else f"was ended by {failure.signal_name()}"
    said = Path(log).read_text(errors="replace").splitlines()[-SHOWN_LINES:]
    told = _message(failure) if Path(failure.error_file).exists() else "\n".join(said)
    print(f"erasediff: rank {failure.local_rank} {how}; its log is {log}", file=sys.stderr)
    print(told, file=sys.stderr)
    if failure.exitcode < 0:
        print("erasediff: give the same command again: it goes on from what was saved", file=sys.stderr)
    return status
