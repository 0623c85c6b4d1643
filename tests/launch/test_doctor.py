"""`erasediff launch doctor`: a machine that is well, and one thing after the other made bad for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from doctor_cases import look, write_run
from erasediff.kernels.exercise import exercise
from erasediff.launch.cli import main
from erasediff.launch.doctor.config import DoctorConfig
from erasediff.launch.doctor.examine import examine, is_stuck
from erasediff.launch.doctor.kernels import what_is_missing
from erasediff.trainer.errors import ConfigError
from ranks import free_port, run_ranks

# ahead of the real one: what a wrong clock looks like to a process
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t which, struct timespec *found) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(which, found);
    if (which == CLOCK_REALTIME) found->tv_sec += 100;
    return status;
}
"""


@pytest.fixture
def run_toml(digits: Path, base_model: Path, tmp_path: Path) -> Path:
    return write_run(digits, base_model, tmp_path)


def install(place: Path, name: str, version: str, more: str = "") -> None:
    """What pip notes of a package."""
    metadata = place / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}")


def test_two_ranks_that_are_well(run_toml: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "erasediff.launch", "launch", "local", "-n", "2", "doctor", str(run_toml)]
    done = subprocess.run(
        [*launch, "--full", "--json"],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["failed"] == 0 and len(told["hosts"]) == 2
    found = {line["what"]: line for line in told["findings"]}
    assert {line["state"] for line in found.values()} == {"ok"}, found
    assert found["ranks"]["found"].startswith("2 ranks on 1 host")
    assert f"torch {torch.__version__}" in found["versions"]["found"]
    assert "183 samples" in found["forget"]["found"] and "every byte as recorded" in found["forget"]["found"]
    assert "1,614 samples" in found["remain"]["found"]
    assert "seen by all 2 ranks" in found["output"]["found"]
    assert "refused to a second rank" in found["locks"]["found"]
    assert "3 checkpoints of" in found["disk"]["found"]
    for collective in ("all-reduce", "all-gather", "reduce-scatter"):
        assert found[collective]["found"].endswith("(gloo, 2 ranks)")
        assert found[collective]["found"].count(" at ") == 3
    # nothing is left that the run would not begin beside
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["logs"]
    assert not list((tmp_path / "run" / "logs").glob("doctor-*"))


def test_a_rank_that_has_all_things_wrong(digits: Path, tmp_path: Path) -> None:
    """Relative paths, which for each rank mean another folder, as on nodes that share nothing."""
    well, ill = tmp_path / "well", tmp_path / "ill"
    for place in (well, ill):
        shutil.copytree(digits / "data", place / "data")
    shard = next((ill / "data").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1])
    packages = ill / "packages"
    install(packages, "diffusers", "0.1.0")
    variables = {
        "PYTHONPATH": os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "GLOO_SOCKET_IFNAME": "nowhere0",
        "TMPDIR": str(ill / "missing"),
    }
    if compiler := shutil.which("gcc"):
        clock = tmp_path / "clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-xc", "-", "-o", str(clock)], input=CLOCK, text=True, check=True)
        variables["LD_PRELOAD"] = str(clock)
    # as the job's set-up would, on that node
    program = (
        "import os, sys\n"
        f"if os.environ['RANK'] == '1' and 'ILL' not in os.environ:\n"
        f"    os.environ.update({variables!r}, ILL='1')\n"
        f"    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])\n"
        f"os.chdir({str(tmp_path)!r} + ('/ill' if os.environ['RANK'] == '1' else '/well'))\n"
        "from erasediff.launch.cli import main\n"
        "status = main(['doctor', '--shards', 'data', '--output', 'run'])\n"
        "sys.stdout.flush(); sys.stderr.flush(); os._exit(status)\n"
    )
    first, second = run_ranks(2, ["-c", program], timeout_seconds=150, fresh=True)  # a rank starts itself again
    assert (first.returncode, second.returncode) == (1, 1), first.stderr + second.stderr
    assert second.stdout == "" and "checks failed" in first.stderr
    found = {line[9:24].strip(): (line[:9].strip(), line[24:]) for line in first.stdout.splitlines()}

    def says(what: str, state: str, *texts: str) -> None:
        assert found[what][0] == state and all(text in found[what][1] for text in texts), (what, found)

    says("ranks", "ok")
    says("versions", "failed", "rank 1 (", "has diffusers 0.1.0", "install the same on every node")
    says("shards", "failed", "rank 1 (", "truncated")
    says("output", "failed", "rank 1 (", "do not see each other's files", "share")
    says("locks", "failed", "not shared")
    says("temporary", "warning", "rank 1 (", "missing' cannot be written")
    says("network", "failed", "rank 1 (", "nowhere0", "GLOO_SOCKET_IFNAME")
    if compiler:
        says("clocks", "warning", "rank 1 (", "s ahead of rank 0", "100.")


def test_a_rank_that_does_not_come_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lonely = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in lonely.items():
        monkeypatch.setenv(name, value)
    found = look("--output", tmp_path, "--timeout-seconds", "3")
    assert found["ranks"].state == found["network"].state == "failed"
    assert found["ranks"].found == "1 of 2 did not come in 3 s: 1"
    assert "not tried, since ranks are missing" in found["network"].found


def test_shards_that_are_not_as_recorded(digits: Path, run_toml: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(digits / "data", data)
    shard = next(data.glob("*.tar"))
    whole = shard.read_bytes()
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    options = ("--output", tmp_path / "out", "--shards", data, tmp_path / "nowhere")
    found = look(*options)
    assert found["shards 1"].state == "ok" and "--full" in found["shards 1"].found
    assert found["shards 2"].state == "failed" and "nowhere" in found["shards 2"].found
    assert "SHA-256 is not the recorded one" in look(*options, "--full")["shards 1"].found
    shard.write_bytes(whole[:-1])
    assert "truncated" in look(*options)["shards 1"].found
    shard.write_bytes(whole)
    index = data / "index.npy"
    index.write_bytes(index.read_bytes()[:-1] + b"\xff")
    assert "index out of date" in look(*options)["shards 1"].found
    assert not (tmp_path / "out").exists()
    # begun on other samples than those that are there now
    (tmp_path / "run").mkdir()
    stamp = {"path": "", "fingerprint": "0" * 64, "num_samples": 1}
    inputs = {"base_weights_sha256": "", "forget": stamp, "remain": stamp}
    (tmp_path / "run" / "inputs.json").write_text(json.dumps(inputs))
    begun = look(run_toml)["forget"]
    assert begun.state == "failed" and "was begun with" in begun.found
    (tmp_path / "run" / "inputs.json").write_text("{")
    assert "inputs.json is damaged" in look(run_toml)["shards"].found


def test_an_output_and_a_disk_that_will_not_do(run_toml: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    found = look("--output", tmp_path / "file")
    assert found["output"].state == "failed" and "is a file: name a folder" in found["output"].found
    found = look("--output", tmp_path / "file" / "below")
    assert found["output"].state == "failed" and "Not a directory" in found["output"].found
    # more checkpoints than any disk holds
    found = look(run_toml, "--train.checkpoints-total-limit", str(10**9))
    assert found["output"].state == found["settings"].state == found["model"].state == "ok"
    assert found["disk"].state == "failed" and "lower train.checkpoints_total_limit" in found["disk"].todo
    found = look(run_toml, "--model.path", tmp_path / "nowhere")
    assert found["disk"].state == "failed" and "no such folder" in found["disk"].found
    assert not (tmp_path / "run").exists()


def test_a_temporary_folder_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        monkeypatch.setenv("TMPDIR", str(small))
        monkeypatch.setattr(tempfile, "tempdir", None)  # which Python has found out before
        found = look("--output", tmp_path)["temporary"]
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert found.state == "failed" and found.found == f"1.0 MB free in '{small}'"


def test_what_triton_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert what_is_missing() == "there is no C compiler (CC, gcc, clang)"
    if not torch.cuda.is_available():
        found = look("--output", tmp_path)["Triton driver"]
        assert found.state == "warning" and "no C compiler" in found.found and "python3-dev" in found.todo
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    monkeypatch.setenv("CC", str(compiler))
    assert what_is_missing() == f"the C compiler {compiler} cannot be started: Permission denied"
    compiler.chmod(0o755)
    assert what_is_missing() == f"the C compiler {compiler} fails: broken"


def test_a_look_that_hangs_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\nexec /bin/sleep 8\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    found = look("--output", tmp_path, "--timeout-seconds", "4")
    assert found["Triton driver"].state == "failed"
    assert found["Triton driver"].found == "no answer in 4 s; --timeout-seconds allows more"
    assert found["output"].state == "ok", "the other looks go on"
    assert is_stuck()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU to fill it on")
def test_a_cache_that_cannot_be_filled_says_why(run_toml: Path, tmp_path: Path) -> None:
    found = look(run_toml, "--fill-cache", tmp_path / "cache", "--engine.device", "auto")["cache"]
    assert found.state == "failed" and "is not filled: there is no GPU driver here (libcuda.so.1)" in found.found
    found = look(run_toml, "--engine.device", "cuda")["devices"]
    assert found.state == "failed" and "torch sees no CUDA device" in found.found


def test_the_kernels_that_fill_a_cache_run() -> None:
    exercise(torch.device("cpu"))


@pytest.mark.parametrize(
    ("torch_version", "triton_version", "state", "text"),
    [
        ("2.13.0", "3.6.0", "failed", "torch 2.13.0 asks for Triton 3.7.1; found: 3.6.0"),
        ("2.13.0", "3.7.1", "ok", "a pair that was tried"),
        ("2.12.0", "3.7.1", "warning", "the kernels were tried with 2.11.0 with 3.6.0, 2.13.0 with 3.7.1"),
    ],
)
def test_the_pair_of_torch_and_triton(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_version: str, triton_version: str, state: str, text: str
) -> None:
    """As the metadata of installed packages has it, a CUDA wheel's: before the packages that are here."""
    asks = "Requires-Dist: triton==3.7.1; platform_system == 'Linux'\n"
    for name, version, more in (("torch", torch_version, asks), ("triton", triton_version, "")):
        install(tmp_path, name, version, more)
    monkeypatch.syspath_prepend(tmp_path)
    found = look("--output", tmp_path / "run")["torch, Triton"]
    assert found.state == state and text in found.found


def test_options_that_cannot_be(run_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.toml"
    other.write_text("run = 'run'\ndata = 'data'\n")
    for words, message in (
        ([str(other)], "other.toml is no run of scrub (forget, remain), erase (request) or pretrain (data)"),
        (["--engine.device", "cpu"], "unknown option --engine.device: those of a run need its file"),
        ([str(run_toml), "--engine.devise", "cpu"], "engine.devise"),
        (["--timeout-seconds", "0"], "--timeout-seconds 0: more than 0"),
    ):
        assert main(["launch", "doctor", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_launchers_environment_that_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("erasediff.launch.doctor.peers._store", None)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="MASTER_ADDR is not set"):
        examine(DoctorConfig())
