"""What a user is told who made one."""

from __future__ import annotations

import pytest
from erasediff.launch.cli import main


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line a mistake is answered with."""
    capsys.readouterr()
    status = main(arguments)
    said = capsys.readouterr().err.strip()
    assert status != 0
    assert said.startswith("erasediff: ")
    assert "\n" not in said
    return said.removeprefix("erasediff: ")
