"""benchmarks/gpu.sh, which no one watches as it runs: its steps, its rows, and that programs know all its options."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro
from benchmark_modules import BENCHMARKS, load
from erasediff.launch.cli import COMMANDS, read
from torch.distributed.run import parse_args

pytestmark = pytest.mark.timeout(800)  # some 60 s on idle cores

# a Python that runs nothing but notes what it is asked, on a machine of 8 GPUs; kernels.py leaves with 3
NOTES = """#!{python}
import json, sys
words = sys.argv[1:]
if words[0] == "-c":
    print(8)
else:
    with open("{notes}", "a") as file:
        print(json.dumps(words), file=file)
    sys.exit(3 * words[0].endswith("kernels.py"))
"""


@dataclass(frozen=True)
class Script:
    """gpu.sh with a Python that notes."""

    folder: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        python = self.folder / "python"
        python.write_text(NOTES.format(python=sys.executable, notes=self.notes))
        python.chmod(0o755)
        return gpu_sh(*words, PYTHON=str(python), CIFAR10="pictures")

    @property
    def notes(self) -> Path:
        return self.folder / "notes.jsonl"

    @property
    def noted(self) -> list[list[str]]:
        return [json.loads(line) for line in self.notes.read_text().splitlines()]


def gpu_sh(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(BENCHMARKS / "gpu.sh"), *words]
    return subprocess.run(command, cwd=BENCHMARKS.parent, env=os.environ | environment, capture_output=True, text=True)


def steps(output: Path) -> dict[str, str]:
    """By name, how each ended."""
    lines = (output / "steps.txt").read_text().splitlines()
    return {name: told.partition(" after")[0] for name, _, told in (line.partition(": ") for line in lines)}


def test_a_step_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path) -> None:
    script, output = Script(tmp_path), tmp_path / "output"
    done = script.run(str(output), "environment", "sd2")
    assert done.returncode == 2
    assert done.stderr.startswith("gpu.sh: no step sd2; known: environment engine ")
    assert not output.exists() and not script.notes.exists()


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a program does once it has read its options is left out."""
    read_by = argparse.ArgumentParser.parse_args

    def leave(parser: argparse.ArgumentParser, *given: object) -> None:
        raise Read(read_by(parser, *given))  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", leave)
    yield


class Read(Exception):
    pass


def read_words(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """By the parser of the program that they call, whose name is returned. Leaves or raises for what that refuses."""
    if words[:2] == ["-m", "torch.distributed.run"]:
        with pytest.raises(Read) as found:
            parse_args(words[2:])
        (asked,) = found.value.args
        return read_words([asked.training_script, *asked.training_script_args], monkeypatch)
    if words[:2] == ["-m", "erasediff.launch"]:
        name = next(name for name in (" ".join(words[2:4]), words[2]) if name in COMMANDS)
        module, options, _ = COMMANDS[name]
        read(module, options, name, words[2 + len(name.split()) :])
        return name
    if words[:2] == ["-m", "pytest"]:
        assert (BENCHMARKS.parent / words[2]).exists() and words[3:] == ["-p", "no:cacheprovider"]
        return "pytest"
    folder, _, script = words[0].partition("/")
    assert folder == "benchmarks"
    if script == "cifar10.py":
        tyro.cli(load("cifar10").Options, args=words[1:])
        return script
    # by its own name `kernels` would be found in place of Hugging Face's
    module = load(script.removesuffix(".py"), "kernels_benchmark" if script == "kernels.py" else None)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(Read):
        module.main()
    return script


@pytest.mark.parametrize("dry", [True, False])
def test_programs_know_every_option(tmp_path: Path, dry: bool, programs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for needed in ("rows", "pipelines", "peers", "updates", "cifar10_table"):
        load(needed)
    script, output = Script(tmp_path), tmp_path / "output"
    done = script.run(*["--dry"] * dry, str(output))
    called = {read_words(words, monkeypatch) for words in script.noted if words[:2] != ["-m", "pip"]}
    benchmarks = {"throughput.py", "kernels.py", "precision.py", "pipelines.py", "cifar10.py"}
    assert called == benchmarks | {"bench", "plan", "launch local", "pytest"}
    # what one step leaves with keeps none from running, and is not lost
    found = steps(output)
    assert found.pop("kernels") == "left with 3" and done.returncode == 3
    found.pop("environment")  # nvidia-smi may not be there
    assert set(found.values()) == {"left with 0"} and [*found][-1] == "cifar10"


def test_a_dry_run_leaves_rows(tmp_path: Path) -> None:
    done = gpu_sh("--dry", str(tmp_path), "attention", "ddpm", "cifar10", PYTHON=sys.executable, CIFAR10="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert steps(tmp_path) == {
        "attention": "left with 0",
        "ddpm-fp32": "left with 0",
        "cifar10": "left out, CIFAR10 names no pictures",
    }
    rows = [json.loads(line) for line in (tmp_path / "bench" / "bench.jsonl").read_text().splitlines()]
    assert [row["varied"]["attention"] for row in rows] == ["native", "xformers", "flash"]
    assert [row["status"][:8] for row in rows] == ["ok", "refused:", "refused:"]
    rows = [json.loads(line) for line in (tmp_path / "throughput.jsonl").read_text().splitlines()]
    readings = ["K = 0", "value, K = 1", "first_order, K = 1"]
    asked = [(reading, provider) for reading in readings for provider in ("erasediff", "plain", "released")]
    assert [(row["op"], row["provider"]) for row in rows] == asked
    assert all(float(row["median ms"]) > 0 for row in rows)
