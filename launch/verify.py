"""`erasediff verify-record`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class VerifyRecord:
    """Look whether an erasure's records, the model that was published and its card are what was written."""

    path: tyro.conf.Positional[Path]
    """An erasure's folder, or the record.json in it; a run's that was evaluated by itself."""

    def run(self) -> None:
        """A line for each thing that holds, and for each that differs; raises TrainingError where one does."""
        from ..trainer.errors import TrainingError
        from ..trainer.evidence.verify import verify

        found = verify(self.path)
        for line in found.holds:
            print(f"  holds    {line}")
        for line in found.unseen:
            print(f"  not looked at  {line}")
        for line in found.differs:
            print(f"  differs  {line}")
        num = len(found.differs)
        if num:
            raise TrainingError(f"'{self.path}' is not what was written: {num} difference{'s' if num > 1 else ''}")
