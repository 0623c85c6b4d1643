"""One model measured: has it forgotten, does it still know the rest. The same samples, tests and judge for every model.

D_f either holds whole classes, of which nothing remains, or single samples of classes that stay. For a class, P_psi
says whether the model still makes it; for samples, membership and the distance to the nearest generation say whether
it still knows them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..config import JudgeConfig
from ..errors import ConfigError
from ..models.model import Model
from ..models.pictures import MAX_BLACK_SHARE, black_images
from .bench import Bench, Measured, Samples
from .earlier import Earlier
from .images import Asked
from .instruments import Instruments
from .metric_table import Need, computed
from .metrics import Measurement
from .pairing import Influences, taken_apart
from .relearning import RelearningPoint, relearn


def metric_names(
    config: JudgeConfig, instruments: Instruments, forgets_classes: bool, earlier: Earlier, *, has_phrasings: bool
) -> list[str]:
    """The metrics of a scrubbed model, before they are computed."""
    return [*computed(instruments, given_by(config, forgets_classes, earlier, has_phrasings), of_unscrubbed=False)]


def given_by(config: JudgeConfig, forgets_classes: bool, earlier: Earlier, has_phrasings: bool) -> set[Need]:
    """What there is for metrics that need something."""
    there: dict[Need, bool] = {
        "forgotten classes": forgets_classes,
        "held-out samples": config.held_out is not None,
        "another factor": config.factor is not None,
        "phrasings": forgets_classes and has_phrasings,
        "kept prompts": config.kept_prompts is not None,
        "near classes": bool(config.near),
        "classes of earlier requests": bool(earlier.conditions),
        "inversion": forgets_classes and "inversion" in config.attacks,
        "prompts that attack": forgets_classes and "prompt" in config.attacks,
        "samples of earlier requests": earlier.samples is not None and config.held_out is not None,
    }
    return {need for need, is_there in there.items() if is_there}


@dataclass(frozen=True)
class Figures:
    """A model's figures, and the samples behind them."""

    metrics: dict[str, Measurement]
    influences: Influences
    relearning: list[RelearningPoint]
    samples: Samples
    num_non_finite: int


def evaluate(model: Model, bench: Bench, original: Samples | None = None) -> Figures:
    """Generates the bench's samples with a model and measures it. All ranks call it and get the same.

    original: the original model's samples, from the same noise and labels; None for the original itself, whose
    integrity is then the floor (the same again) and which also gives the ceiling (other noise). Raises ConfigError
    where more than 1 % of the original's are black.
    """
    on_bench = Measured(model, bench, original)
    if original is None:
        _refuse_black(on_bench)
    table = computed(
        bench.instruments,
        given_by(bench.config, bench.forgets_classes, bench.earlier, bool(bench.phrasings)),
        of_unscrubbed=original is None,
    )
    found, influences = taken_apart({name: compute(on_bench) for name, compute in table.items()})
    return Figures(found, influences, relearning_curve(model, bench), on_bench.samples, on_bench.num_non_finite)


def _refuse_black(original: Measured) -> None:
    shown = original.samples
    black = torch.cat([black_images(images.images) for images in shown.sides])
    num_black = int(black.sum())
    if num_black > MAX_BLACK_SHARE * len(black):
        raise ConfigError(
            f"model.path = '{original.model.folder}': before scrubbing it draws {num_black:,} of {len(black):,} "
            f"pictures all black ({original.num_non_finite:,} samples are not finite), which figures would be of: see "
            "them with `erasediff sample`, and name a model that draws (fp16 weights may overflow)"
        )


def relearning_curve(model: Model, bench: Bench) -> list[RelearningPoint]:
    """By `bench.config.relearning`; empty where none was asked for or no class is forgotten. All ranks call it."""
    config = bench.config
    if not config.relearn or not bench.forgets_classes:
        return []
    some = bench.real_forget.where(torch.arange(min(config.relearning.num_images, len(bench.real_forget))))
    shown = {label: bench.forget_conditions[label] for label in sorted(set(some.labels.tolist()))}
    wanted = Asked.in_turn(shown, config.relearning.num_samples)
    return relearn(model, bench.classifier, some, wanted, config.relearning, config.sampling, device=bench.device)
