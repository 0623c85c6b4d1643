"""Is a digit that `meta_erasediff` erased as hard to relearn as one that was never learned, and is all else kept?

    python benchmarks/relearning.py                 runs what is missing, then writes docs/results/relearning.md
    python benchmarks/relearning.py --table-only    only writes the table of what is there

Model, data and retrained models are those of compare_digits.py; what is missing of them is made. 400 steps of AdamW at
2e-4 with a cosine, the null class as anchor, a relearner of two steps at one of --rates: 2,000 gradients. Beside it
EraseDiff, which simulates no relearner, at as many steps: 800. More samples of each class than that table has: its
accuracy is compared with the unscrubbed model's, by .01.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import compare_digits
import tyro
from compare_digits_table import FRECHET
from compared import rows_as_set, rows_of, run_shares, value_of
from erasediff.trainer.comparing.cases import cases_of
from erasediff.trainer.comparing.derived import RELEARNING_AREA
from erasediff.trainer.comparing.rows import Row
from erasediff.trainer.comparing.run import run_compare
from erasediff.trainer.comparing.table import lines_of, markdown
from erasediff.trainer.config import BudgetConfig, CompareConfig
from rows import write_tables

CONTROL = "erasediff"  # at as many steps


@dataclass(frozen=True)
class Options:
    digits: tuple[int, ...] = (0, 3, 6, 8)
    """Each is erased."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the scrub."""
    rates: tuple[float, ...] = (4e-5,)
    """Of the simulated relearner, a row each."""
    num_samples_per_class: int = 500
    """Of every class and model."""
    output: Path = Path("build/compare-digits")
    """compare_digits.py's folder."""
    table: Path = Path("docs/results/relearning.md")
    """What stands in it before the marker is kept."""
    table_only: bool = False
    """Run nothing."""
    num_processes: int = 2
    """Digits at once."""
    share: int | None = None
    """The digits of the process of this number; its own processes are started so."""


def config_of(options: Options, digit: int) -> CompareConfig:
    methods = {f"meta_erasediff, r = {rate:g}": settings_of(rate) for rate in options.rates}
    methods[CONTROL] = settings_of(None)
    shared = compare_digits.Options(output=options.output)
    config = compare_digits.config_of(shared, digit, f"relearning-{digit}", methods, options.seeds)
    number = options.num_samples_per_class
    judge = dataclasses.replace(config.judge, num_forget_samples_per_class=number, num_remain_samples_per_class=number)
    return dataclasses.replace(config, budget=BudgetConfig(), judge=judge)


def settings_of(rate: float | None) -> dict[str, Any]:
    """rate: of the simulated relearner; None: EraseDiff as it is by default, which simulates none."""
    method = {"name": "meta_erasediff", "num_relearning_steps": 2, "relearning_rate": rate}
    return {
        "method": ({"name": CONTROL} if rate is None else method) | {"anchor": compare_digits.NULL_CLASS},
        "train": {"max_train_steps": 400},
        "optimizer": {"learning_rate": 2e-4, "lr_scheduler": "cosine"},
    }


def prepare(options: Options) -> None:
    """The data, the model, and what a digit's own table has of a retrained model and a judge."""
    compare_digits.prepare(compare_digits.Options(digits=options.digits, output=options.output))
    for digit in options.digits:
        for name in ("retrained", "classifier.safetensors"):
            is_searched = digit == compare_digits.SEARCHED_DIGIT
            there = options.output / ("search" if is_searched else f"digit-{digit}") / name
            own = options.output / f"relearning-{digit}" / name
            if there.exists() and not own.exists():
                own.parent.mkdir(exist_ok=True)
                (shutil.copytree if there.is_dir() else shutil.copy)(there, own)


def goals(options: Options) -> str:
    """A line a digit and rate: what is wanted, and how far each figure is from it."""
    lines = [
        "| digit | | seeds | P_psi (retrained) | relearning (retrained) | Fréchet distance (retrained) | the lowest "
        "accuracy of a class (unscrubbed) | n | holds P_psi, relearning, distance, class |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for digit in options.digits:
        rows = rows_as_set(config := config_of(options, digit))
        if not {"unscrubbed", "retrained"} <= rows.keys():
            continue
        unscrubbed, retrained = rows["unscrubbed"], rows["retrained"]
        for name in config.methods:
            own = [rows[case.slug] for case in cases_of(config) if case.name == name and case.slug in rows]
            own = [row for row in own if row.failed is None]
            if not own:
                continue
            cells = [f"{len(own)}"]
            for figure, beside, places in (
                ("p_psi", retrained, 3),
                (RELEARNING_AREA, retrained, 3),
                (FRECHET, retrained, 1),
                ("accuracy_worst_class", unscrubbed, 3),
            ):
                values = [value_of(row, figure) for row in own]
                spread = f" ± {stdev(values):.{places}f}" if len(values) > 1 else ""
                cells.append(f"{mean(values):.{places}f}{spread} ({value_of(beside, figure):.{places}f})")
            held = [met(row, unscrubbed, retrained) for row in own]
            kept = ", ".join(str(sum(column)) for column in zip(*held, strict=True))
            cells += [f"{options.num_samples_per_class:,}", f"{kept} of {len(own)}"]
            lines.append(f"| {digit} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def met(row: Row, unscrubbed: Row, retrained: Row) -> tuple[bool, bool, bool, bool]:
    """P_psi and relearning within .05 of the retrained model's or below, 1.1 times its distance, a class's accuracy
    within .01 of the unscrubbed model's; as they were measured, without their intervals."""

    def over(name: str, beside: Row) -> float:
        return value_of(row, name) - value_of(beside, name)

    return (
        over("p_psi", retrained) <= 0.05,
        over(RELEARNING_AREA, retrained) <= 0.05,
        value_of(row, FRECHET) <= 1.1 * value_of(retrained, FRECHET),
        over("accuracy_worst_class", unscrubbed) >= -0.01,
    )


def write_table(options: Options) -> None:
    parts = ["## What was wanted\n", goals(options)]
    for digit in options.digits:
        config = config_of(options, digit)
        parts += [
            f"\n## Forgetting the {digit}\n",
            markdown(config, lines_of(config, cases_of(config), rows_of(config))),
        ]
    write_tables(options.table, __file__, "\n".join(parts))


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.share is not None:
        for digit in options.digits[options.share :: options.num_processes]:
            run_compare(config_of(options, digit))
        return
    if not options.table_only:
        prepare(options)
        run_shares(__file__, options.num_processes)
    write_table(options)


if __name__ == "__main__":
    main()
