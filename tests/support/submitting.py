"""Commands as a user gives them, in this process."""

from __future__ import annotations

import pytest
from erasediff.launch.cli import main


def printed(words: list[str], capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    """What a command prints: without an error on stdout, else on stderr."""
    left = main(words)
    out, err = capsys.readouterr()
    assert left == status, err
    return err if status else out
