"""Benchmarks as modules, for tests of what they compute."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str, known_as: str | None = None) -> Any:
    """A benchmark's module; its folder stays off sys.path, where its `kernels` would stand before Hugging Face's.

    known_as: in place of its name, to those who import it.
    """
    spec = importlib.util.spec_from_file_location(known_as or name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
