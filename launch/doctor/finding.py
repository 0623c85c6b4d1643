"""What a check found, as a line for a person. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    state: State
    what: str
    """The check's name."""
    found: str
    todo: str = ""
    """What to do; empty where there is nothing to."""

    def line(self) -> str:
        return f"{self.state:<9}{self.what:<15}{'; '.join(text for text in (self.found, self.todo) if text)}"


def num_failed(findings: list[Finding]) -> int:
    return sum(finding.state == "failed" for finding in findings)


def size(num_bytes: float) -> str:
    """For a person, in powers of ten."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes:,.0f} bytes"
