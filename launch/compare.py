"""`erasediff compare` and `erasediff ablate`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tomli_w
import tyro

from ..trainer.config import CompareConfig, ScrubConfig
from ..trainer.config.toml import NONE, as_dict, decode, read_toml
from ..trainer.errors import ConfigError
from ..trainer.ranks import meeting
from .options import check_datasets, parse, print_once

# what `ablate` makes where its file names no methods: Algorithm 1's options, those of the inner loop where it counts
ABLATION: dict[str, dict[str, Any]] = {
    "erasediff": {"vary": {"method.eta": [0.1, 0.25, 0.5, 1.0, 2.0], "method.lambda_cap": [1.0, 3.0, NONE]}},
    "value": {
        "method": {"barrier": "value"},
        "vary": {"method.num_inner_steps": [0, 1, 3], "method.xi": [1e-3, 1e-2]},
    },
    "first_order": {
        "method": {"gradient_of_g": "first_order"},
        "vary": {"method.num_inner_steps": [1, 3], "method.xi": [1e-3, 1e-2]},
    },
}


@dataclass(frozen=True)
class Options:
    """Beside the file."""

    only: tuple[str, ...] = ()
    """Rows to run, by their names; what failed of them is tried again."""
    table_only: bool = False
    """Write the tables of the rows that are there; run nothing."""
    sweep: str | None = None
    """Write the scrubs as a sweep for `erasediff launch sweep` into this .toml, and stop: once they have run there, the
    same comparison finds them done."""
    dry_run: bool = False
    """Check everything, print the rows and what they cost, and stop."""


@dataclass(frozen=True)
class Compare:
    """Scrub one model by several methods, measure all alike, and write the table, with spread over seeds.

    FILE.toml has output, model, data, forget, remain, seeds, [methods.NAME], and where wanted [budget], [train],
    [optimizer], [engine], [judge], [vary] and [grid]; docs/comparing.md. Again: what is missing.
    """

    config: CompareConfig
    options: Options

    command: ClassVar[str] = "compare"

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Compare:
        words = list(words)
        if not words:
            raise ConfigError(f"{prog}: name the comparison's file: {prog} FILE.toml")
        if words[0] in ("-h", "--help"):
            parse(
                Options,
                ["--help"],
                prog=f"{prog} FILE.toml",
                config=(tyro.conf.FlagCreatePairsOff,),
                description=inspect.cleandoc(cls.__doc__ or ""),
            )
        path = words.pop(0)
        if path.startswith("-"):
            raise ConfigError(f"{prog} {path}: the comparison's file comes first: {prog} FILE.toml {path} …")
        options = parse(Options, words, prog=f"{prog} FILE.toml", config=(tyro.conf.FlagCreatePairsOff,))
        try:
            values = cls.filled(read_toml(Path(path)))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}" if not str(error).startswith(path) else str(error)) from None
        return cls(decode(CompareConfig, values, path), options)

    @classmethod
    def filled(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The file's values with what this command adds."""
        return values

    @property
    def beside(self) -> tuple[str, ...]:
        """Words that are not in the file."""
        options = self.options
        words = ("--only", *options.only) if options.only else ()
        words += ("--table-only",) if options.table_only else ()
        return words if options.sweep is None else (*words, "--sweep", options.sweep)

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def datasets(self) -> list[str]:
        return [self.config.forget, self.config.remain, self.config.data]

    def check(self) -> None:
        from ..trainer.comparing.checks import check

        check(self.config)

    def run(self) -> None:
        if not self.options.table_only:
            check_datasets(self.datasets)
        from ..trainer.comparing.checks import describe
        from ..trainer.comparing.run import run_compare, write_again
        from ..trainer.ranks.collectives import is_main, leaving_together

        if self.options.dry_run:
            print_once(describe(self.config))
            return
        if self.options.sweep is not None or self.options.table_only:
            if os.environ.get("RANK", "0") == "0":
                sweep = self.options.sweep
                print(write_sweep(self.config, Path(sweep)) if sweep else f"page: {write_again(self.config)}")
            return
        with meeting.on_signals(), leaving_together():
            page = run_compare(self.config, only=self.options.only)
            if is_main():
                print((page.with_suffix(".md")).read_text(encoding="utf-8"))
                print(f"page: {page}")


def write_sweep(config: CompareConfig, path: Path) -> str:
    """The scrubs of a comparison as a sweep's file; what is left to do, in words."""
    from ..trainer.comparing.budget import known_paces
    from ..trainer.comparing.checks import check

    cases, paces = check(config), known_paces(config)
    if config.budget.seconds is not None and any(case.name not in paces for case in cases):
        raise ConfigError(
            "--sweep: how many steps budget.seconds means is not measured yet: run the comparison until it has timed "
            "each method, on a machine as the sweep's are, or give budget.gradients"
        )
    shared = path.with_name(f"{path.stem}-shared.toml")
    runs = {case.slug: _own(case.config) for case in cases if case.failed is None}
    path.parent.mkdir(parents=True, exist_ok=True)
    shared.write_text("# all settings are in the sweep's runs\n", encoding="utf-8")
    sweep = {"output": str(Path(config.output) / "runs"), "config": str(shared), "runs": runs}
    path.write_text(tomli_w.dumps(sweep), encoding="utf-8")
    return f"{len(runs)} scrubs: erasediff launch sweep {path}, and then this comparison again"


def _own(config: ScrubConfig) -> dict[str, Any]:
    return {key: value for key, value in as_dict(config).items() if key != "output"}


@dataclass(frozen=True)
class Ablate(Compare):
    """What each option does: one after the other is changed, the rest stays as it is.

    FILE.toml is a comparison's. Without [methods] it is EraseDiff by default, η and the cap varied, with the barrier
    `value` and with ∇g `first_order`, K and ξ varied; [vary] and [grid] then hold for these.
    """

    command: ClassVar[str] = "ablate"

    @classmethod
    def filled(cls, values: dict[str, Any]) -> dict[str, Any]:
        named = values.get("methods", {})
        if not named:
            return values | {"methods": ABLATION if not {"vary", "grid"} & values.keys() else {"erasediff": {}}}
        varied = any("vary" in own for own in named.values() if isinstance(own, dict))
        if not varied and not {"vary", "grid"} & values.keys():
            raise ConfigError("nothing is varied: give [vary], [grid] or [methods.NAME.vary]")
        return values
