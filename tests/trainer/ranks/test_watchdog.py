"""A process that was stopped from outside goes on where it was; one that hangs: distributed/test_surviving.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT_SECONDS = 5

# steps of as much work each, however long that takes
STEPS = """
import sys, time
from pathlib import Path
from erasediff.trainer.ranks.watchdog import Watchdog
watchdog = Watchdog(Path(sys.argv[1]), {timeout})
with watchdog.watching():
    for step in range(1, 4):
        watchdog.beat(step, "computing")
        print(step, flush=True)
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
    # nothing is heard for almost as long again
    time.sleep(0.6 * {timeout})
"""


def test_time_in_which_a_process_was_stopped_does_not_count(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STEPS.format(timeout=TIMEOUT_SECONDS), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    # SLURM's `scontrol suspend`, or preemption with PreemptMode=SUSPEND
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5 * TIMEOUT_SECONDS)
    process.send_signal(signal.SIGCONT)
    told, said = process.communicate(timeout=60)
    assert (process.returncode, told) == (0, "2\n3\n"), said
