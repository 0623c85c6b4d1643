"""Every method that a prompt's word can be forgotten by, on the text-to-image model of `erasediff demo --text`.

    erasediff demo --text
    python benchmarks/compare_text.py --search       four settings of each method on a word of its own, one seed
    python benchmarks/compare_text.py                the table, at the settings that the search found best
    python benchmarks/compare_text.py --table-only   writes docs/results/compare_text.md of what is there

The demo's 'three' is forgotten, with its model, its retrained model, judges and prompts; the search forgets 'six'.
Cross-attention alone is trained, 200 gradients of a batch. Everything is resumable, as in compare_digits.py.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from compared import Candidates, choose, grid, numbered, rows_of, run_share, run_shares, search_table
from erasediff.shards.requests.split import FORGET_NAME, REMAIN_NAME, split
from erasediff.trainer.comparing.cases import cases_of
from erasediff.trainer.comparing.table import gaps, lines_of, markdown
from erasediff.trainer.config import (
    AttackConfig,
    BudgetConfig,
    CompareConfig,
    EngineConfig,
    JudgeConfig,
    ModelConfig,
    SamplingConfig,
)
from rows import write_tables

CONCEPT, SEARCHED_WORD = "three", "six"
IN_PLACE_OF = {"three": "four", "six": "seven"}
BUDGET = BudgetConfig(gradients=200)
CHOSEN = Path("benchmarks/compare_text.json")
COLOURS_KEPT = ("factor_accuracy_forgotten", "factor_accuracy_remaining")

_RATES = (2e-4, 5e-4)
# those whose step is not bounded by ∇L_r's, which 5e-4 destroys
_LOW_RATES = (5e-5, 2e-4)
_FOUR_RATES = (1e-4, 2e-4, 5e-4, 1e-3)

# four settings each
CANDIDATES: Candidates = {
    "erasediff, envelope": grid(_RATES, {}, eta=[0.5, 1.0]),
    "erasediff, value": grid(_RATES, {"barrier": "value", "xi": 1e-2}, num_inner_steps=[1, 3]),
    "erasediff, null prompt": grid(_RATES, {"anchor": ""}, lambda_cap=[1.0, 3.0]),
    "meta_erasediff": grid(_RATES, {"name": "meta_erasediff"}, eta=[0.05, 0.5]),
    "moo": grid(_RATES, {"name": "moo"}, weight=[0.3, 1.0]),
    "restricted_gradient": grid(_FOUR_RATES, {"name": "restricted_gradient"}),
    "munba": grid(_FOUR_RATES, {"name": "munba"}),
    "salun": grid(_RATES, {"name": "salun"}, saliency=[0.25, 0.5]),
    "esd": grid(_LOW_RATES, {"name": "esd"}, negative_guidance=[1.0, 3.0]),
    "forget_me_not": grid(_LOW_RATES, {"name": "forget_me_not"}, with_end=[True, False]),
    "neggrad": grid(_RATES, {"name": "neggrad"}, remain_weight=[0.0, 1.0]),
    "blindspot": grid(_RATES, {"name": "blindspot", "num_proxy_steps": 100}, alpha=[0.5, 0.9]),
    "finetune": grid((5e-4, 1e-3, 3e-3, 1e-2), {"name": "finetune"}),
}
# which are told the word, and which another one for its place
TOLD_BOTH = (
    "erasediff, envelope",
    "erasediff, value",
    "meta_erasediff",
    "moo",
    "restricted_gradient",
    "munba",
    "salun",
)
TOLD_THE_WORD = (*TOLD_BOTH, "forget_me_not")


@dataclass(frozen=True)
class Options:
    """Which rows, and where."""

    demo: Path = Path("demo-text")
    """Folder of `erasediff demo --text`."""
    output: Path = Path("build/compare-text")
    """Folder for models and rows."""
    table: Path = Path("docs/results/compare_text.md")
    """The table to write."""
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
    judge = judge_of(options, num_forget_samples_per_class=180, num_remain_samples_per_class=90)
    sets = options.output / f"split-{SEARCHED_WORD}"
    return config_of(options, sets, SEARCHED_WORD, numbered(CANDIDATES), (100,), judge)


def table_config(options: Options) -> CompareConfig:
    if not CHOSEN.exists():
        sys.exit(f"{CHOSEN} is not there: --search finds each method's settings first")
    judge = judge_of(
        options,
        num_forget_samples_per_class=432,
        num_remain_samples_per_class=240,
        retrained=str(options.demo / "retrained" / "model"),
        attacks=("inversion", "prompt"),
        attacking=AttackConfig(num_images=16, num_prompts=2),
    )
    sets = options.demo / "erased" / "split"
    return config_of(options, sets, CONCEPT, json.loads(CHOSEN.read_text())["methods"], options.seeds, judge)


def judge_of(options: Options, **settings: Any) -> JudgeConfig:
    return JudgeConfig(
        classifier=str(options.demo / "data.safetensors"),
        factor=str(options.demo / "other"),
        factor_classifier=str(options.demo / "other.safetensors"),
        prompts=str(options.demo / "prompts.csv"),
        relearn=True,
        sampling=SamplingConfig(guidance_scale=2.5, num_inference_steps=10),
        device="cpu",
        num_threads=1,
        **settings,
    )


def config_of(
    options: Options, sets: Path, word: str, methods: dict[str, Any], seeds: tuple[int, ...], judge: JudgeConfig
) -> CompareConfig:
    return CompareConfig(
        output=str(options.output / word),
        model=ModelConfig(str(options.demo / "base" / "model")),
        data=str(options.demo / "data"),
        forget=str(sets / FORGET_NAME),
        remain=str(sets / REMAIN_NAME),
        methods={name: told(name.partition(" #")[0], own, word) for name, own in methods.items()},
        seeds=seeds,
        budget=BUDGET,
        # a run that destroys the rest is a row like others here: its figures say so
        train={"layers": ["xattn"], "max_loss_r_ratio": None},
        engine=EngineConfig(device="cpu", num_threads=1),
        judge=judge,
    )


def told(name: str, settings: dict[str, Any], word: str) -> dict[str, Any]:
    """The method's settings with the words that it is told."""
    words = {"concept": [word]} if name in TOLD_THE_WORD else {}
    words |= {"anchor": IN_PLACE_OF[word]} if name in TOLD_BOTH else {}
    return settings | {"method": settings["method"] | words}


def prepare(options: Options) -> None:
    """The sets of the search; those of the table are the demo's."""
    if not (options.demo / "erased" / "split").exists():
        sys.exit(f"{options.demo} is not there or not whole: `erasediff demo --text` makes it")
    sets = options.output / f"split-{SEARCHED_WORD}"
    if options.search and not sets.exists():
        split(options.demo / "data", sets, [SEARCHED_WORD])


def write_table(options: Options) -> None:
    config = table_config(options)
    lines = lines_of(config, cases_of(config), rows_of(config))
    if missing := gaps(lines):
        print(f"{len(missing)} gaps")
    parts = [markdown(config, lines), "\n## The search\n", search_table(json.loads(CHOSEN.read_text()))]
    write_tables(options.table, __file__, "\n".join(parts))


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    config = search_config if options.search else table_config
    if options.share is not None:
        run_share([config(options)], options.share, options.num_processes)
        return
    if not options.table_only:
        prepare(options)
        run_shares(__file__, options.num_processes)
    if options.search:
        about = f"'{SEARCHED_WORD}', seed 100, {BUDGET.gradients} gradients; the best score of each method's four"
        choose(search_config(options), CANDIDATES, CHOSEN, about, COLOURS_KEPT)
    else:
        write_table(options)


if __name__ == "__main__":
    main()
