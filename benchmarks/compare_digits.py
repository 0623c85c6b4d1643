"""Every method on the digits, at one budget: classes × seeds, each method's settings found by the same small search.

    python benchmarks/compare_digits.py --search     four settings of each method on a digit of their own, one seed
    python benchmarks/compare_digits.py              the table, at the settings that the search found best
    python benchmarks/compare_digits.py --table-only writes docs/results/compare_digits.md of what is there

A budget is 200 gradients of a batch, those before the first step included: 100 steps of a method that takes two and
prepares nothing. Everything is resumable; processes fill a table side by side, each its own rows. Judges, samples and
the retrained model are a digit's own and the same for all its rows.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from compare_digits_table import overall
from compared import Candidates, choose, grid, numbered, rows_of, run_share, run_shares, search_table
from erasediff.shards.requests.split import split
from erasediff.shards.writing.build import build
from erasediff.trainer.comparing.cases import cases_of
from erasediff.trainer.comparing.table import gaps, lines_of, markdown
from erasediff.trainer.config import (
    BudgetConfig,
    CompareConfig,
    EngineConfig,
    JudgeConfig,
    ModelConfig,
    PretrainConfig,
)
from erasediff.trainer.config.compare import REFERENCES
from erasediff.trainer.pretrain import run_pretrain
from rows import write_tables

ENGINE = EngineConfig(device="cpu", num_threads=1)
NULL_CLASS = 10
BUDGET = BudgetConfig(gradients=200)
SEARCHED_DIGIT = 6
CHOSEN = Path("benchmarks/compare_digits.json")

_RATES = (1e-4, 3e-4)

# four settings each
CANDIDATES: Candidates = {
    "erasediff, rl": grid(_RATES, {}, eta=[0.5, 1.0]),
    "erasediff, noise": grid(_RATES, {"target": "noise"}, eta=[1e-4, 1e-3]),
    "erasediff, neighbours": grid(_RATES, {"target": "neighbours"}, eta=[0.5, 1.0]),
    "erasediff, null class": grid(_RATES, {"anchor": NULL_CLASS}, lambda_cap=[1.0, 3.0]),
    "meta_erasediff": grid(
        _RATES, {"name": "meta_erasediff", "num_relearning_steps": 5, "relearning_rate": 1e-4}, eta=[0.02, 0.05]
    ),
    "moo": grid(_RATES, {"name": "moo"}, weight=[0.3, 1.0]),
    "munba": grid(_RATES, {"name": "munba"}, target=["rl", "noise"]),
    "restricted_gradient": grid(_RATES, {"name": "restricted_gradient"}, target=["rl", "noise"]),
    "blindspot": grid(_RATES, {"name": "blindspot", "num_proxy_steps": 100}, alpha=[0.5, 0.9]),
    "salun": grid(_RATES, {"name": "salun"}, saliency=[0.25, 0.5]),
    "selective_amnesia": grid(_RATES, {"name": "selective_amnesia"}, penalty=[1e5, 1e6]),
    "esd": grid(_RATES, {"name": "esd"}, negative_guidance=[1.0, 3.0]),
    "neggrad": grid(_RATES, {"name": "neggrad"}, remain_weight=[0.0, 1.0]),
    "finetune": grid((1e-4, 3e-4, 1e-3, 3e-3), {"name": "finetune"}),
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
    return config_of(options, SEARCHED_DIGIT, "search", numbered(CANDIDATES), (100,))


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


def write_table(options: Options) -> None:
    """Every digit's table, what is missing of it, all digits that have both references together, and the search."""
    parts, found = ["\n## The search\n", search_table(json.loads(CHOSEN.read_text()))], []
    for digit in options.digits:
        config = table_config(options, digit)
        cases = cases_of(config)
        rows = rows_of(config)
        lines = lines_of(config, cases, rows)
        beside = {line.name: line.rows[0] for line in lines if line.name in REFERENCES and line.rows}
        if len(beside) == len(REFERENCES):
            found += [(row, beside) for line in lines for row in line.rows]
        parts += [f"\n## Forgetting the {digit}\n", markdown(config, lines)]
        if len(gaps(lines)) > 0:
            print(f"digit {digit}: {len(gaps(lines))} gaps")
    parts = ["## All digits together\n", overall(found), *parts]
    write_tables(options.table, __file__, "\n".join(parts))


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.share is not None:
        run_share(configs_of(options), options.share, options.num_processes)
        return
    if not options.table_only:
        prepare(options)
        run_shares(__file__, options.num_processes)
    if options.search:
        about = f"digit {SEARCHED_DIGIT}, seed 100, {BUDGET.gradients} gradients; the best score of each method's four"
        choose(search_config(options), CANDIDATES, CHOSEN, about)
    else:
        write_table(options)


if __name__ == "__main__":
    main()
