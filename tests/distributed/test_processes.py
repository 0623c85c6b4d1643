"""A fork is to its command what a process of its own is: hence tests of runs may begin with one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import FRESH, HEAVY, start

TELLS = """
import atexit, json, os, signal, sys, threading, time
atexit.register(print, "at the exit")
threading.Thread(target=lambda: (time.sleep(0.5), print("a thread"))).start()
print("to stderr", file=sys.stderr)
print(json.dumps({
    "name": __name__,
    "main": sys.modules["__main__"].__dict__ is globals(),
    "arguments": sys.argv,
    "path": sys.path,
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "leads": os.getsid(0) == os.getpid(),
    "signals": [str(signal.getsignal(number)).partition(" at ")[0] for number in sorted(signal.valid_signals())],
    "ours": sorted(name for name in sys.modules if name.startswith("erasediff")),
}))
sys.exit(7)
"""


@pytest.fixture(params=["-c", "-m", "script"])
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    (tmp_path / "tells.py").write_text(TELLS)
    found = {"-c": ["-c", TELLS], "-m": ["-m", "tells"], "script": [str(tmp_path / "tells.py")]}
    return [*found[request.param], "one", "--two"]


@pytest.mark.parametrize("new_session", [False, True])
def test_a_fork_is_to_its_command_what_a_fresh_process_is(
    arguments: list[str], new_session: bool, tmp_path: Path
) -> None:
    told = []
    for fresh in (True, False):
        environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        started = start(arguments, environment | {"OWN": "x"}, cwd=tmp_path, new_session=new_session, fresh=fresh)
        stdout, stderr = started.communicate(timeout=60)
        assert started.returncode == 7 and stderr == "to stderr\n", stderr
        first, *rest = stdout.splitlines()
        assert rest == ["a thread", "at the exit"]
        found = json.loads(first)
        assert not found["ours"]
        # what an interpreter brings of its own
        found["path"] = [path for path in found["path"] if path == "" or Path(path).is_dir()]
        found["path"] = [path for path in found["path"] if not path.startswith((sys.prefix, sys.base_prefix))]
        found["environment"].pop("LC_CTYPE", None)
        told.append(found)
    assert told[0] == told[1]


@pytest.mark.skipif(FRESH in os.environ or torch.cuda.is_available(), reason="nothing is forked")
def test_a_fork_has_the_heavy_libraries_and_ends_by_signals() -> None:
    code = f"import sys, time; print(all(name in sys.modules for name in {HEAVY}), flush=True); time.sleep(100)"
    started = start(["-c", code], os.environ)
    with pytest.raises(subprocess.TimeoutExpired):
        started.communicate(timeout=5)
    started.send_signal(signal.SIGTERM)
    assert started.communicate(timeout=20)[0] == "True\n"
    assert started.returncode == -signal.SIGTERM
