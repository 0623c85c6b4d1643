"""Does a model that resists the relearner it is measured by resist others too, and does harmless training undo it?

    python benchmarks/relearning.py                 first: the models
    python benchmarks/relearners.py                 runs what is missing, then writes docs/results/relearners.md
    python benchmarks/relearners.py --table-only    only writes the tables of what is there

Every relearner of RELEARNERS on the unscrubbed, the retrained and each scrubbed model of that folder, on the same
pictures and with the same noise. Harmless training is fine-tuning on D_r alone; what it leaves is relearned as well.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import compare_digits
import relearning
import tyro
from compared import run_shares
from erasediff.trainer import FinetuneConfig
from erasediff.trainer.comparing.cases import cases_of
from erasediff.trainer.comparing.derived import relearning_area
from erasediff.trainer.comparing.judges import named_judges
from erasediff.trainer.comparing.sides import Sides
from erasediff.trainer.config import (
    CompareConfig,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    RelearnConfig,
    ScrubConfig,
    TrainConfig,
)
from erasediff.trainer.evidence.bench import Bench
from erasediff.trainer.evidence.evaluation import relearning_curve
from erasediff.trainer.evidence.making import make_bench
from erasediff.trainer.files import write_json
from erasediff.trainer.models.families import load_model
from erasediff.trainer.ranks import collectives
from erasediff.trainer.scrubbing import run_scrub
from rows import write_tables

MEASURED = "AdamW, 1e-4, 32 pictures"  # by erasediff's own evaluation
RELEARNERS = {
    MEASURED: RelearnConfig(),
    "AdamW, 3e-4": RelearnConfig(learning_rate=3e-4),
    "SGD with momentum, 0.03": RelearnConfig(optimizer="sgd", learning_rate=0.03),
    "8 pictures": RelearnConfig(num_images=8),
    "128 pictures": RelearnConfig(num_images=128),
}
HARMLESS = "after harmless training"
NUM_HARMLESS_STEPS = 100
TOLERANCE = 0.05


@dataclass(frozen=True)
class Options:
    digits: tuple[int, ...] = (0, 3, 6, 8)
    """Each was erased."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the scrub."""
    rates: tuple[float, ...] = (4e-5,)
    """Of the simulated relearner, relearning.py's."""
    num_samples: int = 100
    """Of the digit at each point of a curve."""
    output: Path = Path("build/compare-digits")
    """relearning.py's folder."""
    table: Path = Path("docs/results/relearners.md")
    """What stands in it before the marker is kept."""
    table_only: bool = False
    """Run nothing."""
    num_processes: int = 2
    """Digits at once."""
    share: int | None = None
    """The digits of the process of this number; its own processes are started so."""


def config_of(options: Options, digit: int) -> CompareConfig:
    asked = relearning.Options(seeds=options.seeds, rates=options.rates, output=options.output)
    config = relearning.config_of(asked, digit)
    methods = {name: own for name, own in config.methods.items() if name != relearning.CONTROL}
    return dataclasses.replace(config, methods=methods)


def models_of(config: CompareConfig) -> dict[str, str]:
    """The folder of each, by its row's name."""
    folders = {"unscrubbed": config.model.path, "retrained": f"{config.output}/retrained/model"}
    return folders | {case.slug: f"{case.config.output}/model" for case in cases_of(config)}


def harmless_config(config: CompareConfig, slug: str, folder: str) -> ScrubConfig:
    """Fine-tuning on D_r alone, of the seed that no scrub here has: all models see the same batches."""
    return ScrubConfig(
        model=ModelConfig(folder),
        forget=config.forget,
        remain=config.remain,
        output=f"{config.output}/harmless/{slug}",
        method=FinetuneConfig(),
        train=TrainConfig(seed=100, max_train_steps=NUM_HARMLESS_STEPS),
        optimizer=OptimizerConfig(learning_rate=1e-4),
        engine=compare_digits.ENGINE,
    )


def run_digit(options: Options, digit: int) -> None:
    config = config_of(options, digit)
    wanted = {
        (slug, name): folder
        for slug, folder in models_of(config).items()
        for name in (*RELEARNERS, HARMLESS)
        if not _path(config, slug, name).exists()
    }
    if not wanted:
        return
    bench = _bench(config)
    for (slug, name), folder in wanted.items():
        if name == HARMLESS:
            folder = str(run_scrub(harmless_config(config, slug, folder)))
        relearner = dataclasses.replace(RELEARNERS.get(name, RELEARNERS[MEASURED]), num_samples=options.num_samples)
        asked = dataclasses.replace(bench, config=dataclasses.replace(bench.config, relearning=relearner))
        points = relearning_curve(load_model(ModelConfig(folder)), asked)
        if (area := relearning_area(points)) is None:
            sys.exit(f"digit {digit}, {slug}: '{name}' led it to NaN; lower that learning rate in RELEARNERS")
        found = {
            "curve": [[point.step, point.p_psi] for point in points],
            "area": area,
            "n": options.num_samples,
        }
        _put(config, slug, name, found)
        print(f"digit {digit}, {slug}, {name}: {found['area']}", flush=True)


def _bench(config: CompareConfig) -> Bench:
    device = collectives.set_up(config.engine)
    sides = Sides.of(cases_of(config)[0].config)
    judge = named_judges(config, sides, device)
    return make_bench(EvaluateConfig(run=config.output, data=config.data, judge=judge), sides, device)


def _path(config: CompareConfig, slug: str, name: str) -> Path:
    kept = "".join(letter if letter.isalnum() else "-" for letter in name)
    return Path(config.output) / "relearners" / f"{slug}.{kept}.json"


def _put(config: CompareConfig, slug: str, name: str, found: dict[str, Any]) -> None:
    path = _path(config, slug, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)


def _read(config: CompareConfig, slug: str, name: str) -> dict[str, Any] | None:
    path = _path(config, slug, name)
    return json.loads(path.read_text()) if path.exists() else None


def figures(options: Options, digit: int) -> Iterator[tuple[str, str, float, float, list[float]]]:
    """Relearner, what of it, the unscrubbed and the retrained model's figure, and those of the scrubs there are."""
    config = config_of(options, digit)
    for name in (*RELEARNERS, HARMLESS):
        read = {slug: _read(config, slug, name) for slug in models_of(config)}
        unscrubbed, retrained = read.pop("unscrubbed"), read.pop("retrained")
        scrubs = [row for row in read.values() if row is not None]
        if unscrubbed is None or retrained is None or not scrubs:
            continue
        if name == HARMLESS:
            # what came back without a picture of it
            yield (
                name,
                "P_psi",
                *(row["curve"][0][1] for row in (unscrubbed, retrained)),
                [row["curve"][0][1] for row in scrubs],
            )
        yield name, "area", unscrubbed["area"], retrained["area"], [row["area"] for row in scrubs]


def resists(scrubs: list[float], retrained: float) -> int:
    """Of how many runs: at most .05 above the retrained model's."""
    return sum(value <= retrained + TOLERANCE for value in scrubs)


def table(options: Options) -> str:
    lines = [
        "| digit | relearner | | unscrubbed | retrained | scrubbed | within .05 of the retrained or below |",
        "|---|---|---|---|---|---|---|",
    ]
    for digit in options.digits:
        for name, what, unscrubbed, retrained, scrubs in figures(options, digit):
            spread = f" ± {stdev(scrubs):.3f}" if len(scrubs) > 1 else ""
            lines.append(
                f"| {digit} | {name} | {what} | {unscrubbed:.3f} | {retrained:.3f} | {mean(scrubs):.3f}{spread} | "
                f"{resists(scrubs, retrained)} of {len(scrubs)} |"
            )
    return "\n".join(lines)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.share is not None:
        for digit in options.digits[options.share :: options.num_processes]:
            run_digit(options, digit)
        return
    if not options.table_only:
        run_shares(__file__, options.num_processes)
    write_tables(options.table, __file__, table(options))


if __name__ == "__main__":
    main()
