"""Where a run's figures and pictures go beside its own files: a class for each service."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..config.run import Service
from ..errors import ConfigError
from ..ranks import collectives


class Reporter(Protocol):
    """One service."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, step: int, name: str, picture: Image.Image) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """OUTPUT/tensorboard; what an earlier start logged beyond the first step of this one is taken back."""

    def __init__(self, run: Path, first_step: int, settings: Mapping[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Weights & Biases, in the project of WANDB_PROJECT or `erasediff`; a run that goes on is the same run there."""

    def __init__(self, run: Path, first_step: int, settings: Mapping[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb: Any = wandb
        identity = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
        how = {"id": identity, "name": run.name, "dir": str(run), "resume": "allow", "config": dict(settings)}
        self._run: Any = wandb.init(project=os.environ.get("WANDB_PROJECT", "erasediff"), **how)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._run.log({name: self._wandb.Image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


SERVICES: dict[Service, Any] = {"tensorboard": TensorBoard, "wandb": WandB}


def check_services(names: Sequence[Service]) -> None:
    """Raises ConfigError for one whose package is not there."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"train.report_to = {name!r}: its package is missing: pip install 'erasediff[{name}]'")


class Reports:
    """All services of a run, opened once it is known where it goes on. Ranks but the first have none."""

    def __init__(self, names: Sequence[Service] = (), run: Path = Path(), settings: Mapping[str, Any] | None = None):
        self._names = names
        self._run = run
        self._settings = settings or {}
        self._open: list[Reporter] = []

    def begin(self, first_step: int) -> None:
        if collectives.is_main():
            self._open = [SERVICES[name](self._run, first_step, self._settings) for name in self._names]

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """What of the values is a finite number."""
        numbers = {name: float(v) for name, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
        for reporter in self._open:
            reporter.log(step, numbers)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        for reporter in self._open:
            reporter.picture(step, name, picture)

    def close(self) -> None:
        for reporter in self._open:
            reporter.close()
