"""Where a run's figures and pictures go beside its own files: a class for each service."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..config.run import Service
from ..errors import ConfigError


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


def wandb_id(run: Path) -> str:
    """How Weights & Biases know the run."""
    return hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]


def sent_to_wandb(run: Path) -> list[str]:
    """Under which IDs a run's figures and pictures were sent there, by the folders it keeps of what it sends.

    What was logged offline is in such a folder alone, unless `wandb sync` sent it and left its mark there.
    """
    folders = [path for path in (run / "wandb").glob("*run-*-*") if path.is_dir()]
    sent = [path for path in folders if not path.name.startswith("offline-") or any(path.glob("*.synced"))]
    return sorted({path.name.removeprefix("offline-").split("-", 2)[2] for path in sent})


class WandB:
    """Weights & Biases, in the project of WANDB_PROJECT or `erasediff`; a run that goes on is the same run there."""

    def __init__(self, run: Path, first_step: int, settings: Mapping[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb: Any = wandb
        how = {"id": wandb_id(run), "name": run.name, "dir": str(run), "resume": "allow", "config": dict(settings)}
        self._run: Any = wandb.init(project=os.environ.get("WANDB_PROJECT", "erasediff"), **how)
        # samples after a step come before its figures: steps of its own would have to rise
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._run.log({name: self._wandb.Image(picture), "step": step})

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
        """Rank 0 calls it. Raises ConfigError for a service that refuses."""
        for name in self._names:
            try:
                self._open.append(SERVICES[name](self._run, first_step, self._settings))
            except Exception as error:  # each has its own
                raise ConfigError(f"train.report_to = {name!r}: {_first_line(error)}") from None

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """What of the values is a finite number."""
        numbers = {name: float(v) for name, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
        self._tell(lambda reporter: reporter.log(step, numbers))

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._tell(lambda reporter: reporter.picture(step, name, picture))

    def close(self) -> None:
        self._tell(lambda reporter: reporter.close())

    def _tell(self, what: Callable[[Reporter], None]) -> None:
        """A service that fails is told no more; the run goes on."""
        for reporter in [*self._open]:
            try:
                what(reporter)
            except Exception as error:
                self._open.remove(reporter)
                print(f"erasediff: {type(reporter).__name__} gets no more: {_first_line(error)}", file=sys.stderr)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
