"""What a user installs: the wheel beside Hugging Face's packages, and no package that breaks them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

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


def test_every_dependency_is_pinned() -> None:
    pins = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    text = (REPOSITORY / "pyproject.toml").read_text()
    section = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    section = re.sub(r"^cuda = .*$", "", section, flags=re.MULTILINE)
    named = {
        re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r'^\s+"([A-Za-z0-9_.-]+)', section, re.MULTILINE)
    }
    assert len(named) > 15
    assert named <= pins, named - pins
