"""A build or split that is killed leaves nothing that looks whole, and the same command finishes it."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from erasediff.shards import DataError, Dataset, build, split
from erasediff.shards.checking.verify import verify
from erasediff.shards.writing.parts import Part, SavedPart, resumed
from erasediff.shards.writing.staging import staged
from PIL import Image

COMMAND = """
import sys, time
from pathlib import Path
from erasediff.launch.shards import Build, Split
print("started", flush=True)
what, source, output = sys.argv[1], sys.argv[2], Path(sys.argv[3])
if what == "build":
    Build(source, output, max_shard_samples=40, num_workers=2).run()
else:
    Split(Path(source), output, forget_label=("1",), rewrite=what == "rewrite").run()
"""


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of 400 pictures in four classes, large enough that building takes a while."""
    path = tmp_path_factory.mktemp("photographs") / "photographs.zip"
    pixels = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(400):
            buffer = io.BytesIO()
            Image.fromarray(pixels.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
            archive.writestr(f"{i % 4}/{i:04d}.png", buffer.getvalue())
    return path


@pytest.fixture(scope="module")
def whole(photographs: Path) -> Path:
    return build(photographs, photographs.parent / "whole", max_shard_samples=40).path


def run(what: str, source: Path, output: Path, kill_after_seconds: float | None = None) -> int:
    """Exit status of the command, killed some time after it began to work."""
    command = [sys.executable, "-c", COMMAND, what, str(source), str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        if kill_after_seconds is not None:
            time.sleep(kill_after_seconds)
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return process.returncode


def check_killed_and_continued(what: str, source: Path, expected: Path, output: Path, delays: list[float]) -> int:
    """Kill the command after each delay, then let it finish; returns how many kills hit it at work."""
    num_kills = 0
    for delay_seconds in delays:
        if run(what, source, output, delay_seconds) == 0:
            break
        num_kills += 1
        # a kill between the rename and the process's end leaves the whole, which is compared below
        if output.exists():
            break
        leftovers = [folder for folder in output.parent.iterdir() if folder.name.startswith(".")]
        assert len(leftovers) <= 2
        with pytest.raises(DataError):
            Dataset.open(output)
    if not output.exists():
        assert run(what, source, output) == 0
    assert folder_bytes(output) == folder_bytes(expected)
    assert verify(output) == []
    assert not [folder for folder in output.parent.iterdir() if folder.name.startswith(".")]
    return num_kills


@pytest.mark.parametrize("delays", [[0.12], [0.2, 0.2], [0.3, 0.15, 0.25]])
def test_build_killed(photographs: Path, whole: Path, tmp_path: Path, delays: list[float]) -> None:
    check_killed_and_continued("build", photographs, whole, tmp_path / "out", delays)


@pytest.mark.parametrize(("what", "delays"), [("split", [0.1]), ("rewrite", [0.15, 0.1]), ("rewrite", [0.2])])
def test_split_killed(whole: Path, tmp_path: Path, what: str, delays: list[float]) -> None:
    # beside `whole`, so that relative paths into its shards are the same
    expected = whole.parent / f"expected-{what}"
    if not expected.exists():
        split(whole, expected, ["1"], rewrite=what == "rewrite")
    output = whole.parent / f"{tmp_path.name}-out"
    check_killed_and_continued(what, whole, expected, output, delays)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["build", "split", "rewrite"])
def test_killed_at_twenty_random_moments(photographs: Path, whole: Path, tmp_path: Path, what: str) -> None:
    random_seconds = random.Random(20)
    source, expected = (photographs, whole) if what == "build" else (whole, whole.parent / f"expected-{what}-20")
    if what != "build":
        split(whole, expected, ["1"], rewrite=what == "rewrite")
    num_kills = 0
    for number in range(20):
        output = whole.parent / f"{tmp_path.name}-{number}"
        delays = [random_seconds.uniform(0.0, 0.6)]
        num_kills += check_killed_and_continued(what, source, expected, output, delays)
    assert num_kills >= 5


def kill_after_first_shard(photographs: Path, output: Path) -> bool:
    """Whether the build was hit between its first shard and its end."""
    partial = output.parent / f".{output.name}.partial"
    command = [sys.executable, "-c", COMMAND, "build", str(photographs), str(output)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while not list(partial.glob("parts/*.json")) and process.poll() is None:
            time.sleep(0.001)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return not output.exists()


def test_a_continued_build_keeps_finished_shards(photographs: Path, whole: Path, tmp_path: Path) -> None:
    # on a busy machine the build may end before the kill
    output = next(out for i in range(5) if kill_after_first_shard(photographs, out := tmp_path / f"out-{i}"))
    partial = tmp_path / f".{output.name}.partial"
    finished = {file.stem for file in partial.glob("parts/*.json")}
    before = {tar: tar.stat().st_ino for tar in partial.glob("*.tar") if tar.stem[-6:] in finished}
    assert before
    assert run("build", photographs, output) == 0
    assert {(output / tar.name).stat().st_ino for tar in before} == set(before.values())
    assert folder_bytes(output) == folder_bytes(whole)


def test_another_source_does_not_continue(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.partial" / "parts").mkdir(parents=True)
    (tmp_path / ".out.partial" / "stamp").write_text("of another source")
    (tmp_path / ".out.partial" / "parts" / "000000.json").write_text("{")
    (tmp_path / ".out.partial" / "pictures-000000.tar").write_text("old")
    assert verify(build(pictures, tmp_path / "out").path) == []


class Killed(BaseException):
    """Ends a run as a kill does: without tidying up."""


def test_a_split_of_shards_cut_anew_does_not_continue(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_parts_and_killed(folder: Path, number: int, make: Callable[[], Part]) -> SavedPart:
        if folder.name == "remain" and number == 2:
            raise Killed
        return resumed(folder, number, make)

    build(photographs, tmp_path / "in", max_shard_samples=20)
    with monkeypatch.context() as patch:
        patch.setattr("erasediff.shards.writing.assemble.resumed", two_parts_and_killed)
        with pytest.raises(Killed):
            split(tmp_path / "in", tmp_path / "out", ["1"], rewrite=True, num_workers=1)
    shutil.rmtree(tmp_path / "in")
    build(photographs, tmp_path / "in", max_shard_samples=40)
    forget, remain = split(tmp_path / "in", tmp_path / "out", ["1"], rewrite=True)
    assert (len(forget), len(remain)) == (100, 300)


def test_two_at_once(pictures: Path, tmp_path: Path) -> None:
    with staged(tmp_path / "out", "first"):
        with pytest.raises(DataError, match="another process is writing it"):
            build(pictures, tmp_path / "out")
        assert (tmp_path / ".out.partial" / "stamp").read_text() == "first"


def test_who_comes_while_the_other_renames_begins_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is there as long as the other's is, and no longer."""
    rename, said = Path.rename, []

    def meanwhile(path: Path, target: Path) -> Path:
        if path.name == ".out.partial":
            with pytest.raises(DataError) as refused:
                build(pictures, tmp_path / "out")
            said.append(str(refused.value))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", meanwhile)
    built = build(pictures, tmp_path / "out")
    assert len(said) == 1 and "another process is writing it" in said[0]
    assert verify(built.path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pictures"]


@pytest.mark.parametrize("name", ["part-1", "parts", "part"])
def test_shards_may_be_called_as_one_likes(pictures: Path, tmp_path: Path, name: str) -> None:
    built = build(pictures, tmp_path / "out", name=name)
    assert verify(built.path) == []
    assert (built.path / f"{name}-000000.tar").exists() and not (built.path / "parts").exists()
    _, remain = split(built, tmp_path / "cut", [built.classes[0]], rewrite=True)
    assert verify(remain.path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(pictures: Path, tmp_path: Path) -> None:
    # writing beyond a file-size limit fails like writing to a full disk
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); from erasediff.shards import *\n"
        "try: build(sys.argv[1], sys.argv[2])\n"
        "except DataError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(pictures), str(tmp_path / "out")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.startswith(f"{tmp_path / 'out'}: cannot be written (")
    assert printed.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["pictures"]


def test_a_kill_while_tidying_up(
    photographs: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_unlinked = 0
    unlink = Path.unlink

    def unlink_a_few(path: Path, missing_ok: bool = False) -> None:
        nonlocal num_unlinked
        num_unlinked += 1
        if num_unlinked == stop_at:
            raise Killed
        unlink(path, missing_ok)

    for stop_at in (3, 12, 20, 21):
        num_unlinked = 0
        output = tmp_path / f"out-{stop_at}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink_a_few)
            with pytest.raises(Killed):
                build(photographs, output, max_shard_samples=40)
        assert not output.exists()
        build(photographs, output, max_shard_samples=40)
        assert folder_bytes(output) == folder_bytes(whole)


def test_ctrl_c_ends_at_once_and_the_same_command_continues(photographs: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-c", COMMAND, "build", str(photographs), str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not list(tmp_path.glob(".out.partial/*.tar*")) and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    if process.returncode:
        assert not output.exists()
        assert (tmp_path / ".out.partial").is_dir()
        assert run("build", photographs, output) == 0
    assert folder_bytes(output) == folder_bytes(whole)
