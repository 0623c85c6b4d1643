"""How many steps a budget in seconds allows a method: a few iterations, and what comes before them, are timed once."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import CompareConfig
from ..config.toml import as_dict
from ..errors import LostRankError, OneRankError, TrainingError
from ..evidence.finished import metrics_lines
from ..files import write_json
from ..ranks import collectives
from ..scrubbing import run_scrub
from .cases import Pace, cases_of, slug_of
from .rows import preparing_seconds

# iterations that are timed, and those before them that are not
_NUM_TIMED, _WARM_UP = 10, 3


def known_paces(config: CompareConfig) -> dict[str, Pace]:
    """By the row's name, of those that have been timed."""
    kept = _kept(config)
    return _paces(kept) if kept is not None and kept["of"] == _what(config) else {}


def last_paces(config: CompareConfig) -> dict[str, Pace]:
    """As they were last timed, on however many ranks: what the rows that are there were made by."""
    kept = _kept(config)
    return {} if kept is None else _paces(kept)


def _kept(config: CompareConfig) -> dict[str, Any] | None:
    path = _folder(config) / "paces.json"
    return json.loads(path.read_text()) if config.budget.seconds is not None and path.exists() else None


def _paces(kept: dict[str, Any]) -> dict[str, Pace]:
    return {name: Pace(*seconds) for name, seconds in kept["seconds"].items()}


def _what(config: CompareConfig) -> dict[str, Any]:
    """What a pace is of: all that makes an iteration, how many ranks share it, and what was timed."""
    named = ("model", "forget", "remain", "methods", "vary", "grid", "train", "optimizer", "engine")
    settings = {name: value for name, value in as_dict(config).items() if name in named}
    about = {"ranks": int(os.environ.get("WORLD_SIZE", "1")), "timed": [*Pace._fields]}
    return json.loads(json.dumps(settings)) | about


def find_paces(config: CompareConfig, say: Callable[[str], None]) -> dict[str, Pace]:
    """Those of all rows, where the budget asks for them. All ranks call it.

    Raises TrainingError for a method whose first iterations cannot be run.
    """
    if config.budget.seconds is None:
        return {}
    known = collectives.on_main(lambda: known_paces(config))
    for case in cases_of(config, known):
        if case.name in known:
            continue
        train = dataclasses.replace(case.config.train, max_train_steps=_WARM_UP + _NUM_TIMED)
        short = dataclasses.replace(case.config, train=train, output=str(_folder(config) / slug_of(case.name)))
        try:
            run_scrub(short)
        except (OneRankError, LostRankError):
            raise
        except TrainingError as error:
            raise TrainingError(f"{case.name}, in its first {_NUM_TIMED + _WARM_UP} iterations: {error}") from None
        run = Path(short.output)
        iteration = statistics.median(float(str(line["seconds"])) for line in metrics_lines(run)[_WARM_UP:])
        known[case.name] = Pace(*(collectives.agree(seconds) for seconds in (iteration, preparing_seconds(run))))
        collectives.on_main(lambda: write_json(_folder(config) / "paces.json", {"of": _what(config), "seconds": known}))
        if collectives.is_main():
            iteration, preparing = known[case.name]
            say(f"{case.name}: {iteration:.3g} s an iteration, {preparing:.3g} s before the first")
    return known


def _folder(config: CompareConfig) -> Path:
    return Path(config.output) / "pace"
