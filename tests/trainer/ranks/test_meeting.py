"""What a signal does to a process: outside of the steps, in them, and the second time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

# prints "ready", waits for signals for a while, and says how it left
WAITING = """
import os, sys, time
from erasediff.trainer.errors import Interrupted
from erasediff.trainer.ranks import meeting
if "patient" in sys.argv:
    meeting.be_patient()
try:
    with meeting.on_signals():
        if "deferred" in sys.argv:
            with meeting.deferred():
                print("ready", flush=True)
                for line in sys.stdin:
                    print("asked" if meeting.is_asked() else "not asked", flush=True)
        else:
            print("ready", flush=True)
            time.sleep(60)
except Interrupted:
    sys.exit(os.EX_TEMPFAIL)
"""


def waiting(*options: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", WAITING, *options], text=True, stdin=pipe, stdout=pipe)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("?\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_outside_of_the_steps_it_ends_the_work(number: signal.Signals) -> None:
    process = waiting()
    process.send_signal(number)
    assert process.wait(20) == os.EX_TEMPFAIL


@pytest.mark.parametrize(
    ("options", "second", "status"),
    [
        ((), signal.SIGTERM, 128 + signal.SIGTERM),
        ((), signal.SIGUSR2, 0),  # SLURM may send it twice
        (("patient",), signal.SIGTERM, 0),  # and kills by itself
    ],
)
def test_in_the_steps_it_asks_and_the_second_time_it_may_end(
    options: tuple[str, ...], second: signal.Signals, status: int
) -> None:
    process = waiting("deferred", *options)
    assert says(process) == "not asked"
    process.send_signal(signal.SIGUSR2)
    assert says(process) == "asked"
    process.send_signal(signal.SIGTERM)  # an echo
    assert says(process) == "asked"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2.2)
    process.send_signal(second)
    if not status:
        assert says(process) == "asked"
        assert process.stdin is not None
        process.stdin.close()
    assert process.wait(20) == status
