"""What a user installs: the wheel beside Hugging Face's packages, and no package that breaks them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

from erasediff.kernels.versions import TRITON_OF_TORCH
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parent.parent


def test_the_wheel_lives_beside_hugging_faces_kernels(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(REPOSITORY)], check=True
    )
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    assert sorted(path.name for path in site.iterdir() if path.suffix != ".dist-info") == ["bin", "erasediff"]
    code = (
        "import transformers, diffusers, kernels, erasediff.trainer, erasediff.kernels, erasediff.shards\n"
        "from diffusers import DDPMPipeline\nfrom transformers import CLIPTextModel\n"
        "from erasediff.trainer import scrub\n"
        "print(erasediff.kernels.__file__); print(kernels.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(site), "PYTHONWARNINGS": "ignore"},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = done.stdout.split()[-2:]
    assert ours.startswith(str(site))
    # a clone's own .venv may lie below a folder called erasediff, too
    assert not theirs.startswith((str(site), str(REPOSITORY / "kernels")))


def test_torchvision_is_not_pulled_in() -> None:
    """Beside a CPU torch its only build breaks transformers and diffusers."""
    assert find_spec("torchvision") is None
    assert "torchvision" not in (REPOSITORY / "constraints.txt").read_text()


def pinned(name: str) -> dict[str, str]:
    """Version by normalised package name."""
    lines = [line for line in (REPOSITORY / name).read_text().splitlines() if not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in pairs}


def test_torch_and_triton_fit_whichever_build_of_torch_an_index_has() -> None:
    """Torch's CUDA builds, which PyPI has for Linux, ask for exactly one Triton."""
    pins = pinned("constraints.txt")
    assert TRITON_OF_TORCH[pins["torch"]] == pins["triton"]


def test_every_folder_of_code_is_installed() -> None:
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = ("kernels", "launch", "shards", "trainer")
    there = {path.parent.relative_to(REPOSITORY) for room in rooms for path in (REPOSITORY / room).rglob("*.py")}
    assert sorted(listed) == sorted(f"erasediff.{'.'.join(folder.parts)}" for folder in there)


def test_what_is_pinned_is_within_the_declared_bounds() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = [project["dependencies"], *project["optional-dependencies"].values()]
    requirements = [Requirement(text) for group in declared for text in group]
    pins = pinned("constraints.txt")
    for requirement in requirements:
        package = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if package in pins:
            assert pins[package] in requirement.specifier, requirement
    assert {"torch", "triton", "deepspeed"} <= {requirement.name for requirement in requirements}


def test_every_dependency_is_pinned() -> None:
    pins = pinned("constraints.txt").keys()
    text = (REPOSITORY / "pyproject.toml").read_text()
    section = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    section = re.sub(r"^cuda = .*$", "", section, flags=re.MULTILINE)
    named = {
        re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r'^\s+"([A-Za-z0-9_.-]+)', section, re.MULTILINE)
    }
    assert len(named) > 15
    assert named <= pins, named - pins
