"""Runs what a comparison is made of, or finds it done: scrubs, the judge, the references, a row for each model.

    OUTPUT/runs/NAME.SEED/          a scrub's run folder, as `erasediff scrub` makes it
    OUTPUT/pace/NAME.json           its pace, of a budget in seconds; NAME.HASH/, the first iterations that were timed
    OUTPUT/rows/NAME.SEED.json      its figures; of a reference also NAME.safetensors, its samples
    OUTPUT/pictures/NAME.SEED.png   what it draws
    OUTPUT/classifier.safetensors   the judge, where none was named; factor_classifier.safetensors: of judge.factor
    OUTPUT/retrained/               the retrained model's run folder, where it is trained here
    OUTPUT/comparison.csv, .md, .html

The same command goes on after a kill: a row that is there is not made again. Several may make different rows at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...shards.dataset import Dataset
from ..bench.memory import is_short
from ..config import CompareConfig, EvaluateConfig, JudgeConfig
from ..config.compare import RETRAINED, UNSCRUBBED
from ..config.toml import check_ranges
from ..errors import ConfigError, LostRankError, OneRankError, TrainingError
from ..evidence.bench import Bench, Samples
from ..evidence.evaluation import Figures, evaluate
from ..evidence.making import make_bench
from ..evidence.options import check_device, thresholds_of
from ..evidence.pairing import related
from ..evidence.report_pictures import contact_sheet
from ..evidence.retrained import (
    check_trained_without,
    load_retrained,
    named_retrained,
    retrain,
    retrained_config,
)
from ..evidence.thresholds import hold, overall
from ..files import alone
from ..models.families import load_model
from ..models.model import Model
from ..ranks import collectives, meeting
from ..ranks.freed_memory import give_back
from ..run.provenance import DataStamp, now, versions
from ..scrubbing import run_scrub
from .budget import find_paces, last_paces
from .cases import Case, cases_of
from .checks import check
from .derived import derived
from .judges import named_judges
from .kept import keep, kept
from .page import write_page
from .rows import Row, is_of, read_row, training_of, write_row
from .sides import Sides, alone_together, measured_by
from .table import write_tables


def run_compare(config: CompareConfig, *, only: Sequence[str] = (), say: Callable[[str], None] = print) -> Path:
    """Runs or resumes all that is missing and writes the tables after each row; returns the page. All ranks call it.

    only: names of rows, whose failed runs are tried again; none: all, and what has failed stays failed.

    Raises ConfigError or DataError before anything is written where a method would be refused. A scrub that cannot go
    on becomes a row that says why.
    """
    check_device(config.judge)
    device = collectives.set_up(config.engine)
    names = {case.name for case in collectives.together(lambda: check(config))}
    other = next((name for name in only if name not in names), None)
    if other is not None:
        raise ConfigError(f"--only {other}: no such row; there are {', '.join(sorted(names))}")
    with alone_together(config, "paces"):
        paces = find_paces(config, say)
    cases = cases_of(config, paces)
    work = _Work(config, cases, device)
    for number, case in enumerate(cases, start=1):
        if only and case.name not in only:
            continue
        row = work.row(case.slug)
        if row is not None and (row.failed is None or not only) and work.still_holds(row, case):
            continue
        if collectives.is_main():
            say(f"run {number} of {len(cases)}: {case.name}, seed {case.seed}")
        work.make(case, say)
    work.finish()
    return Path(config.output) / "comparison.html"


def write_again(config: CompareConfig) -> Path:
    """The tables of the rows that are there; runs nothing."""
    check_ranges(config)
    return _write(config, cases_of(config, last_paces(config)))


class _Work:
    """The judge, the references and their samples, made when a row first needs them."""

    def __init__(self, config: CompareConfig, cases: list[Case], device: torch.device):
        self._config = config
        self._cases = cases
        self._device = device
        self._output = Path(config.output)
        self._sides = Sides.of(cases[0].config)

    def row(self, slug: str) -> Row | None:
        """What is there, the same on all ranks."""
        return collectives.on_main(lambda: read_row(_row_path(self._config, slug)))

    def still_holds(self, row: Row, case: Case) -> bool:
        """Whether it is of these settings, and was measured as others are now."""
        return is_of(row, case) and (row.failed is not None or row.measured_by == self._measured_by)

    @cached_property
    def _measured_by(self) -> str:
        data = Dataset.open(self._config.data)
        return collectives.agree(measured_by(self._config.judge, self._judge, self._sides, data))

    @cached_property
    def _judge(self) -> JudgeConfig:
        return named_judges(self._config, self._sides, self._device)

    @cached_property
    def _bench(self) -> Bench:
        asked = EvaluateConfig(run=str(self._output), data=self._config.data, judge=self._judge)
        return make_bench(asked, self._sides, self._device)

    @cached_property
    def _references(self) -> dict[str, Figures]:
        """The figures and samples of the unscrubbed model and, where there is one, of the retrained."""
        with alone_together(self._config, "references"):
            return self._measured_references()

    def _measured_references(self) -> dict[str, Figures]:
        found: dict[str, Figures] = {}
        bench, measured_by, retrained = self._bench, self._measured_by, self._retrained()  # by all ranks
        for name, model in ((UNSCRUBBED, self._sides.unscrubbed), (RETRAINED, retrained)):
            if model is None:
                continue
            path = _row_path(self._config, name).with_suffix("")
            known = collectives.on_main(lambda path=path: kept(path, bench, measured_by))
            if known is not None:
                found[name] = known
                continue
            original = found[UNSCRUBBED].samples if name == RETRAINED else None
            found[name] = figures = evaluate(model, bench, original)
            notes = self._notes(retrained) if name == RETRAINED else bench.notes
            row = Row(**self._about(name, None), **self._measured(figures, found), notes=notes)
            self._put(name, row, figures.samples)
            collectives.on_main(lambda path=path, figures=figures: keep(figures, path, measured_by))
        return found

    def _notes(self, retrained: Model | None) -> list[str]:
        if retrained is None:
            return []
        return check_trained_without(retrained, DataStamp.of(self._sides.remain))

    def _retrained(self) -> Model | None:
        judge, sides = self._config.judge, self._sides
        if judge.with_retrained:
            folder = retrain(sides.config, sides.unscrubbed, self._output / "retrained")
            return load_retrained(retrained_config(folder, self._config.model, sides.unscrubbed), sides.unscrubbed)
        return named_retrained(judge, sides.unscrubbed, self._config.model)

    def make(self, case: Case, say: Callable[[str], None]) -> None:
        """Scrubs, measures, writes the row and the tables."""
        about = self._about(case.name, case.seed) | {
            "method": case.method,
            "settings": case.settings,
            "varied": dict(case.varied),
        }
        try:
            if case.failed is not None:
                raise TrainingError(case.failed)
            folder = run_scrub(case.config)
        except (OneRankError, LostRankError):
            raise
        except (TrainingError, RuntimeError, MemoryError) as error:
            # of several ranks one alone may be short of memory: the others then wait for it in vain
            if not isinstance(error, TrainingError) and (collectives.world_size() > 1 or not is_short(error)):
                raise
            why = str(error).splitlines()[0] if isinstance(error, TrainingError) else "out of memory"
            if collectives.is_main():
                say(f"{case.name}, seed {case.seed}: {why}")
            self._put(case.slug, Row(**about, failed=why), None)
            return
        finally:
            give_back(self._device)  # hooks hold the weights in circles
        meeting.check()
        references = self._references
        model = load_model(dataclasses.replace(case.config.model, path=str(folder), revision=None))
        figures = evaluate(model, self._bench, references[UNSCRUBBED].samples)
        measured = self._measured(figures, references)
        row = Row(**about, **measured, training=training_of(case.config), verdict=self._verdict(figures))
        self._put(case.slug, row, figures.samples)
        if collectives.is_main():
            say(f"{case.name}, seed {case.seed}: {row.verdict}")

    def _verdict(self, figures: Figures) -> str:
        thresholds = thresholds_of(self._config.judge, [*figures.metrics], self._bench.forgets_classes)
        by_model = related({**self._references, "scrubbed": figures})
        return collectives.agree(overall(hold(thresholds, by_model), by_model))

    def _about(self, name: str, seed: int | None) -> dict[str, Any]:
        device = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        return {
            "name": name,
            "seed": seed,
            "date": now(),
            "device": device,
            "versions": versions(),
            "measured_by": self._measured_by,
        }

    def _measured(self, figures: Figures, references: dict[str, Figures]) -> dict[str, Any]:
        """What of a row `evaluate` says, and what follows from it and the references."""
        retrained = references[RETRAINED].samples if RETRAINED in references else None
        follows = derived(figures, references[UNSCRUBBED].metrics, retrained, self._bench)
        return {"metrics": figures.metrics, "relearning": figures.relearning, "derived": follows}

    def _put(self, slug: str, row: Row, samples: Samples | None) -> None:
        def put() -> None:
            write_row(row, _row_path(self._config, slug))
            if samples is not None:
                picture = self._output / "pictures" / f"{slug}.png"
                picture.parent.mkdir(parents=True, exist_ok=True)
                contact_sheet(samples, self._bench).save(picture, optimize=True)
            _write(self._config, self._cases)

        collectives.on_main(put)

    def finish(self) -> None:
        """The references where no row needed them, and the tables."""
        if any(self._is_old(name) for name in self._wanted_references):
            _ = self._references
        collectives.on_main(lambda: _write(self._config, self._cases))

    @property
    def _wanted_references(self) -> list[str]:
        judge = self._config.judge
        return [UNSCRUBBED, *([RETRAINED] if judge.with_retrained or judge.retrained is not None else [])]

    def _is_old(self, name: str) -> bool:
        row = self.row(name)
        return row is None or row.measured_by != self._measured_by


def _row_path(config: CompareConfig, slug: str) -> Path:
    return Path(config.output) / "rows" / f"{slug}.json"


def _write(config: CompareConfig, cases: list[Case]) -> Path:
    """The tables and the page, of the rows that are there."""
    paths = {name: _row_path(config, name) for name in (UNSCRUBBED, RETRAINED)}
    paths |= {case.slug: _row_path(config, case.slug) for case in cases}
    with alone(Path(config.output), ".tables"):
        rows = {slug: row for slug, path in paths.items() if (row := read_row(path)) is not None}
        write_tables(config, cases, rows)
        return write_page(config, cases, rows)
