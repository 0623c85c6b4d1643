"""Every method on the digits, at one budget: classes × seeds, each method's settings found by the same small search.

    python benchmarks/compare_digits.py --search     four settings of each method on a digit of their own, one seed
    python benchmarks/compare_digits.py              the table, at the settings that the search found best
    python benchmarks/compare_digits.py --table-only writes docs/results/compare_digits.md of what is there

A budget is 200 gradients of a batch, those before the first step included: 100 steps of a method that takes two and
prepares nothing. Everything is resumable; processes fill a table side by side, each its own rows. Judges, samples and
the retrained model are a digit's own and the same for all its rows.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from compare_digits_table import FRECHET, overall, search_table, value_of
from erasediff.shards.requests.split import split
from erasediff.shards.writing.build import build
from erasediff.trainer.comparing.cases import Case, cases_of
from erasediff.trainer.comparing.derived import ERR
from erasediff.trainer.comparing.rows import Row, read_row
from erasediff.trainer.comparing.run import run_compare
from erasediff.trainer.comparing.table import gaps, lines_of, markdown
from erasediff.trainer.config import (
    BudgetConfig,
    CompareConfig,
    EngineConfig,
    JudgeConfig,
    ModelConfig,
    PretrainConfig,
)
from erasediff.trainer.files import write_json
from erasediff.trainer.pretrain import run_pretrain
from rows import write_tables

ENGINE = EngineConfig(device="cpu", num_threads=1)
NULL_CLASS = 10
BUDGET = BudgetConfig(gradients=200)
SEARCHED_DIGIT = 6
CHOSEN = Path("benchmarks/compare_digits.json")


_SLOW, _FAST = 1e-4, 3e-4


def _grid(fixed: dict[str, Any], **options: list[Any]) -> list[dict[str, Any]]:
    """Method settings with every combination of the options, each at two learning rates where there are two more."""
    rates = options.pop("learning_rate", [_SLOW, _FAST])
    return [
        {"method": fixed | dict(zip(options, values, strict=True)), "optimizer": {"learning_rate": rate}}
        for rate in rates
        for values in itertools.product(*options.values())
    ]


# four settings each
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "erasediff, rl": _grid({}, eta=[0.5, 1.0]),
    "erasediff, noise": _grid({"target": "noise"}, eta=[1e-4, 1e-3]),
    "erasediff, neighbours": _grid({"target": "neighbours"}, eta=[0.5, 1.0]),
    "erasediff, null class": _grid({"anchor": NULL_CLASS}, lambda_cap=[1.0, 3.0]),
    "meta_erasediff": _grid(
        {"name": "meta_erasediff", "num_relearning_steps": 5, "relearning_rate": 1e-4}, eta=[0.02, 0.05]
    ),
    "moo": _grid({"name": "moo"}, weight=[0.3, 1.0]),
    "munba": _grid({"name": "munba"}, target=["rl", "noise"]),
    "restricted_gradient": _grid({"name": "restricted_gradient"}, target=["rl", "noise"]),
    "blindspot": _grid({"name": "blindspot", "num_proxy_steps": 100}, alpha=[0.5, 0.9]),
    "salun": _grid({"name": "salun"}, saliency=[0.25, 0.5]),
    "selective_amnesia": _grid({"name": "selective_amnesia"}, penalty=[1e5, 1e6]),
    "esd": _grid({"name": "esd"}, negative_guidance=[1.0, 3.0]),
    "neggrad": _grid({"name": "neggrad"}, remain_weight=[0.0, 1.0]),
    "finetune": _grid({"name": "finetune"}, learning_rate=[1e-4, 3e-4, 1e-3, 3e-3]),
}


@dataclass(frozen=True)
class Options:
    """Which rows, and where."""

    output: Path = Path("build/compare-digits")
    """Folder for models and rows."""
    table: Path = Path("docs/results/compare_digits.md")
    """The table to write."""
    digits: tuple[int, ...] = (0, 3, 8)
    """Classes to forget."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the scrub."""
    search: bool = False
    """The search in place of the table."""
    table_only: bool = False
    """Run nothing."""
    num_processes: int = 2
    """Rows at once."""
    share: int | None = None
    """Of a table's rows, those that the process of this number makes; its own processes are started so."""


def search_config(options: Options) -> CompareConfig:
    methods = {f"{name} #{i}": own for name, settings in CANDIDATES.items() for i, own in enumerate(settings)}
    return config_of(options, SEARCHED_DIGIT, "search", methods, (100,))


def table_config(options: Options, digit: int) -> CompareConfig:
    if not CHOSEN.exists():
        sys.exit(f"{CHOSEN} is not there: --search finds each method's settings first")
    return config_of(options, digit, f"digit-{digit}", json.loads(CHOSEN.read_text())["methods"], options.seeds)


def config_of(
    options: Options, digit: int, name: str, methods: dict[str, Any], seeds: tuple[int, ...]
) -> CompareConfig:
    sets = options.output / f"split-{digit}"
    return CompareConfig(
        output=str(options.output / name),
        model=ModelConfig(str(options.output / "base" / "model")),
        data=str(options.output / "data"),
        forget=str(sets / "forget"),
        remain=str(sets / "remain"),
        methods=methods,
        seeds=seeds,
        budget=BUDGET,
        # a run that destroys the rest is a row like others here: its figures say so
        train={"max_loss_r_ratio": None},
        engine=ENGINE,
        judge=JudgeConfig(
            with_retrained=True, relearn=True, num_remain_samples_per_class=50, device="cpu", num_threads=1
        ),
    )


def prepare(options: Options) -> None:
    """The data, the model, and the sets of every digit."""
    data = options.output / "data"
    if not data.exists():
        build("digits", data)
    run_pretrain(PretrainConfig(data=str(data), output=str(options.output / "base"), engine=ENGINE))
    for digit in {SEARCHED_DIGIT, *options.digits}:
        if not (options.output / f"split-{digit}").exists():
            split(data, options.output / f"split-{digit}", [str(digit)])


def configs_of(options: Options) -> list[CompareConfig]:
    if options.search:
        return [search_config(options)]
    return [table_config(options, digit) for digit in options.digits]


def run_share(options: Options, share: int) -> None:
    """Of each table every so many'th row, whatever its seed."""
    for config in configs_of(options):
        names = [*dict.fromkeys(case.name for case in cases_of(config))]
        if mine := names[share :: options.num_processes]:
            run_compare(config, only=mine)


def run_shares(script: str, number: int) -> None:
    """Each in a process of its own; where one fails, those after it are ended."""
    words = [sys.executable, script, *sys.argv[1:], "--share"]
    running = [subprocess.Popen([*words, str(share)]) for share in range(number)]
    try:
        for process in running:
            if process.wait():
                sys.exit(process.returncode)
    finally:
        for process in running:
            process.terminate()


def choose(options: Options) -> None:
    """Writes the settings of each method that have the best score, and the whole search."""
    config = search_config(options)
    rows = _rows(config, cases_of(config))
    missing = [name for name in config.methods if name not in rows]
    if missing:
        sys.exit(f"{len(missing)} rows of the search are missing, {missing[0]} for one: nothing is chosen")
    unscrubbed = read_row(Path(config.output) / "rows" / "unscrubbed.json")
    assert unscrubbed is not None, "it is made before any other"
    found = {name: _figures(rows[name], unscrubbed) for name in config.methods}
    best = {
        name: max(range(len(own)), key=lambda i: found[f"{name} #{i}"]["score"]) for name, own in CANDIDATES.items()
    }
    searched = {f"{name} #{i}": found[f"{name} #{i}"] | own for name in best for i, own in enumerate(CANDIDATES[name])}
    chosen = {name: CANDIDATES[name][i] for name, i in best.items()}
    about = f"digit {SEARCHED_DIGIT}, seed 100, {BUDGET.gradients} gradients; the best score of each method's four"
    write_json(CHOSEN, {"about": about, "methods": chosen, "search": searched})


def _figures(row: Row, unscrubbed: Row) -> dict[str, float]:
    """ERR sees what the judge calls an image, not how it looks: the score has a fourth term, the unscrubbed model's
    Fréchet distance over this one's, at most 1. All are 0 for a run that ended early.
    """
    before = value_of(unscrubbed, FRECHET)
    err, distance = (
        None if figure is None else figure.value for figure in (row.derived.get(ERR), row.metrics.get(FRECHET))
    )
    if not (err and distance):
        return {"err": 0.0, "frechet_distance": distance or 0.0, "score": 0.0}
    return {"err": err, "frechet_distance": distance, "score": 4 / (3 / err + max(1.0, distance / before))}


def _rows(config: CompareConfig, cases: list[Case]) -> dict[str, Row]:
    """By name, of one seed."""
    found = {case.name: read_row(Path(config.output) / "rows" / f"{case.slug}.json") for case in cases}
    return {name: row for name, row in found.items() if row is not None}


def write_table(options: Options) -> None:
    """Every digit's table, what is missing of it, all of them together, and the search."""
    parts, found = ["\n## The search\n", search_table(json.loads(CHOSEN.read_text()))], []
    for digit in options.digits:
        config = table_config(options, digit)
        cases = cases_of(config)
        slugs = ["unscrubbed", "retrained", *(case.slug for case in cases)]
        read = {slug: read_row(Path(config.output) / "rows" / f"{slug}.json") for slug in slugs}
        rows = {slug: row for slug, row in read.items() if row is not None}
        lines = lines_of(config, cases, rows)
        found += [(row, rows) for slug, row in rows.items()]
        parts += [f"\n## Forgetting the {digit}\n", markdown(config, lines)]
        if len(gaps(lines)) > 0:
            print(f"digit {digit}: {len(gaps(lines))} gaps")
    parts = ["## All digits together\n", overall(found), *parts]
    write_tables(options.table, __file__, "\n".join(parts))


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.share is not None:
        run_share(options, options.share)
        return
    if not options.table_only:
        prepare(options)
        run_shares(__file__, options.num_processes)
    if options.search:
        choose(options)
    else:
        write_table(options)


if __name__ == "__main__":
    main()
