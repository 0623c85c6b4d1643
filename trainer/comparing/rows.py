"""A row of a comparison: one model's figures, or why there are none, and where they come from. Its own small file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..config import ScrubConfig
from ..errors import ConfigError
from ..evidence.finished import metrics_lines, run_entry
from ..evidence.metrics import Measurement
from ..evidence.relearning import RelearningPoint
from ..files import write_json
from ..run.attempts import chain, read_attempts
from .cases import NO_STEP, Case


@dataclass(frozen=True)
class Training:
    """What a scrub took."""

    num_steps: int
    num_gradients: int
    """Of a batch, a forward and a backward pass each."""
    num_preparing_gradients: int
    """Of them, those before the first iteration, for Fisher information, say."""
    num_forwards: int
    """Passes of a batch without a gradient, in the iterations."""
    seconds: float
    """Of the iterations, as the run logged them."""
    preparing_seconds: float
    """What the method did before the first."""
    peak_bytes: int | None
    """The most memory of a rank in the run's last start; None where it was not noted."""
    num_ranks: int
    capped_steps: int
    """Where λ_t was cut: Theorem 3.1's constraint does not hold there."""
    interruptions: int


@dataclass(frozen=True)
class Row:
    """One model."""

    name: str
    seed: int | None
    """None: of a reference."""
    date: str
    device: str
    versions: dict[str, str]
    measured_by: str
    """SHA-256 of judge, sets and models; a row that was measured otherwise is measured again."""
    method: str = ""
    """The name of the method that it is, or varies."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The scrub's, flat; empty of a reference."""
    varied: dict[str, Any] = field(default_factory=dict)
    """Those of them that `vary` or `grid` changes."""
    failed: str | None = None
    """Why there is no model; its figures are empty then."""
    metrics: dict[str, Measurement] = field(default_factory=dict)
    relearning: list[RelearningPoint] = field(default_factory=list)
    derived: dict[str, Measurement] = field(default_factory=dict)
    """What follows from these and the references', see `derived`."""
    training: Training | None = None
    notes: list[str] = field(default_factory=list)
    """What is to be said of it: of a retrained model that nobody knows what it was trained on, say."""
    verdict: str | None = None
    """shown, not shown or failed: what the judge's thresholds come to; None of a reference, and where it failed."""


_ADAPTER = TypeAdapter(Row)


def is_of(row: Row, case: Case) -> bool:
    """Whether it was made with the case's settings, the steps that the budget allows among them."""
    if row.settings != case.settings:
        return False
    # what has no step has the settings of one step
    is_without_step = case.failed is not None or (row.failed or "").startswith(NO_STEP)
    return row.failed == case.failed if is_without_step else True


def write_row(row: Row, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(row))


def read_row(path: Path) -> Row | None:
    """None where there is none. Raises ConfigError for a file that is none."""
    try:
        return _ADAPTER.validate_python(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{path} is no row of a comparison ({first}): remove it, and it is made again") from None


def training_of(config: ScrubConfig) -> Training:
    """Of a finished scrub."""
    run = Path(config.output)
    entry, cost = run_entry(run), config.method.cost(config.engine.precision)
    attempts = read_attempts(run)
    last = attempts[-1].manifest() if attempts else None
    return Training(
        num_steps=entry.num_steps,
        num_gradients=config.method.num_preparing_gradients + entry.num_steps * cost.gradients,
        num_preparing_gradients=config.method.num_preparing_gradients,
        num_forwards=entry.num_steps * cost.forwards,
        seconds=sum(float(str(line["seconds"])) for line in metrics_lines(run)),
        preparing_seconds=preparing_seconds(run),
        peak_bytes=max(last.peak_bytes) if last is not None and last.peak_bytes else None,
        num_ranks=1 if last is None else last.world_size,
        capped_steps=entry.capped_steps,
        interruptions=entry.interruptions,
    )


def preparing_seconds(run: Path) -> float:
    """What came before a run's first iteration, in the start that the others went on from."""
    links = chain(run)
    manifest = links[0].attempt.manifest() if links else None  # attempts may be deleted once a run has ended
    return (None if manifest is None else manifest.preparing_seconds) or 0.0
