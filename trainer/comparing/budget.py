"""How many steps a budget in seconds allows a method: a few iterations, and what comes before them, are timed once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from ..config import CompareConfig, ScrubConfig
from ..config.toml import as_dict
from ..errors import LostRankError, OneRankError, TrainingError
from ..evidence.finished import metrics_lines
from ..files import write_json
from ..ranks import collectives, meeting
from ..scrubbing import run_scrub
from .cases import Case, Pace, cases_of, slug_of
from .rows import preparing_seconds

# iterations that are timed, and those before them that are not
_NUM_TIMED, _WARM_UP = 10, 3


def known_paces(config: CompareConfig) -> dict[str, Pace]:
    """By the row's name, of those that have been timed with these settings on so many ranks."""
    return {name: pace for name, is_as_now, pace in _timed(config) if is_as_now}


def last_paces(config: CompareConfig) -> dict[str, Pace]:
    """By the row's name, as each was timed last: what the rows that are there were made by."""
    return {name: pace for name, _, pace in _timed(config)}


def _timed(config: CompareConfig) -> Iterator[tuple[str, bool, Pace]]:
    """Of each row that has been: its name, whether it would be timed so now, and its pace."""
    for case in cases_of(config) if config.budget.seconds is not None else []:
        path = _file(config, case)
        if path.exists():
            kept = json.loads(path.read_text())
            run = kept.pop("run")
            yield case.name, run == Path(_short(config, case).output).name, Pace(**kept)


def _short(config: CompareConfig, case: Case) -> ScrubConfig:
    """Its first iterations, in a folder of their own for all that makes them and for how many ranks share them."""
    train = dataclasses.replace(case.config.train, max_train_steps=_WARM_UP + _NUM_TIMED, seed=0)
    short = dataclasses.replace(case.config, train=train, output="")
    of = json.dumps([as_dict(short), os.environ.get("WORLD_SIZE", "1")], sort_keys=True)
    name = f"{slug_of(case.name)}.{hashlib.sha256(of.encode()).hexdigest()[:8]}"
    return dataclasses.replace(short, output=str(_folder(config) / name))


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
        short = _short(config, case)
        try:
            run_scrub(short)
        except (OneRankError, LostRankError):
            raise
        except TrainingError as error:
            raise TrainingError(f"{case.name}, in its first {_NUM_TIMED + _WARM_UP} iterations: {error}") from None
        meeting.check()
        run = Path(short.output)
        iteration = statistics.median(float(str(line["seconds"])) for line in metrics_lines(run)[_WARM_UP:])
        pace = Pace(*(collectives.agree(seconds) for seconds in (iteration, preparing_seconds(run))))
        known[case.name] = pace
        path, kept = _file(config, case), {"run": run.name, **pace._asdict()}
        collectives.on_main(lambda path=path, kept=kept: write_json(path, kept))
        if collectives.is_main():
            say(f"{case.name}: {pace.iteration:.3g} s an iteration, {pace.preparing:.3g} s before the first")
    return known


def _file(config: CompareConfig, case: Case) -> Path:
    return _folder(config) / f"{slug_of(case.name)}.json"


def _folder(config: CompareConfig) -> Path:
    return Path(config.output) / "pace"
