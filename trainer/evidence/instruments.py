"""What compares pictures or sees something in them, by the names that metrics carry: `recall[digits-cnn]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Instrument = Literal["features", "clip", "detector"]


@dataclass(frozen=True)
class Instruments:
    """Those of an evaluation; None: there is none."""

    features: str
    clip: str | None = None
    detector: str | None = None
    detector_thresholds: tuple[float, ...] = ()

    def of(self, kind: Instrument | None) -> dict[str, tuple[Any, ...]]:
        """What a metric on such an instrument is called by here, in brackets, and what its formula takes for each.

        One name where there is one, of a detector one for each threshold, none where there is none; empty, without
        brackets, for a metric on no instrument.
        """
        if kind is None:
            return {"": ()}
        if kind == "detector":
            thresholds = () if self.detector is None else self.detector_thresholds
            return {f"{self.detector}@{threshold:g}": (threshold,) for threshold in thresholds}
        name = self.features if kind == "features" else self.clip
        return {} if name is None else {name: ()}
