"""A method of its own that reads data before its first step: `averaged`, from the first batch's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import averaged  # pyright: ignore[reportMissingImports]


@dataclass(frozen=True)
class Config(averaged.Config):
    name: Literal["started"] = "started"

    def make(self, losses: Any) -> Any:
        return Started(self, losses)


class Started(averaged.Averaged):
    def prepare(self, model: Any, read: Any) -> None:
        _, gradient = model.gradient(self._losses.loss, read(0).remain)
        self.state = {"average": gradient}
