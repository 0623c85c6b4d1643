"""A process that was stopped from outside goes on where it was; one that hangs: distributed/test_surviving.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT_SECONDS = 8

# a step of as much work, however long that takes, and some that are short
STEPS = """
import sys, time
from pathlib import Path
from erasediff.trainer.ranks.watchdog import Watchdog
watchdog = Watchdog(Path(sys.argv[1]), float(sys.argv[2]))
with watchdog.watching():
    for step, seconds in ((1, 1.5), (2, 0.2), (3, 0.2)):
        watchdog.beat(step, "computing")
        print(step, flush=True)
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
"""


def started(folder: Path) -> subprocess.Popen[str]:
    folder.mkdir()
    command = [sys.executable, "-c", STEPS, str(folder), str(TIMEOUT_SECONDS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_time_in_which_a_process_was_stopped_does_not_count(tmp_path: Path) -> None:
    """Whether the watch had seen the step before, a tick of a tenth later, or not yet."""
    processes = [started(tmp_path / "at once"), started(tmp_path / "after a tick")]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        # SLURM's `scontrol suspend`, or preemption with PreemptMode=SUSPEND
        process.send_signal(signal.SIGSTOP)
    processes[1].send_signal(signal.SIGCONT)
    time.sleep(1.2 * TIMEOUT_SECONDS / 10)
    processes[1].send_signal(signal.SIGSTOP)
    time.sleep(1.5 * TIMEOUT_SECONDS)
    for process in processes:
        process.send_signal(signal.SIGCONT)
    for process in processes:
        told, said = process.communicate(timeout=100)
        assert (process.returncode, told) == (0, "2\n3\n"), said
