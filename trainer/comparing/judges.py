"""A comparison's judges: where none was named, they are trained once and kept beside the rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ...shards.dataset import Dataset
from ..config import CompareConfig, JudgeConfig
from ..errors import ConfigError
from ..evidence.asking import fit_factor
from ..evidence.classifier import Classifier, is_as_asked, load_classifier
from ..evidence.making import trained_classifier
from ..models.fitting import fit
from ..ranks import collectives
from .sides import Sides, alone_together


def named_judges(config: CompareConfig, sides: Sides, device: torch.device) -> JudgeConfig:
    """The judge's settings with a file for each classifier that it takes. All ranks call it."""
    judge, model = config.judge, sides.unscrubbed

    def trained(name: str, data: Dataset) -> str:
        path = Path(config.output) / f"{name}.safetensors"
        if not collectives.on_main(lambda: _is_ours(path, judge, data)):
            classifier = trained_classifier(judge, data, model, device)
            collectives.on_main(lambda: _save(classifier, path))
        return str(path)

    named = judge
    with alone_together(config, "judge"):
        if judge.classifier is None:
            named = dataclasses.replace(
                named, classifier=trained("classifier", fit(Dataset.open(config.data), model).data)
            )
        if judge.factor is not None and judge.factor_classifier is None:
            named = dataclasses.replace(named, factor_classifier=trained("factor_classifier", fit_factor(judge, model)))
    return named


def _is_ours(path: Path, judge: JudgeConfig, data: Dataset) -> bool:
    try:
        return path.exists() and is_as_asked(load_classifier(path).card, judge, data)
    except ConfigError:  # torn, or an older version's
        return False


def _save(classifier: Classifier, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    classifier.save(path)
