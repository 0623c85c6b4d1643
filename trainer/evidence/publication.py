"""What an erasure publishes: the scrubbed model, or the retrained one in its place, to the bit what was evaluated."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..config import EraseConfig, ModelConfig
from ..errors import ConfigError, TrainingError
from ..models.card import Found, retrained, scrubbed, write_model_card
from ..models.families import load_model
from ..models.lineage import write_lineage
from ..models.model import Model
from ..run.provenance import DataStamp, ModelStamp, differing
from .collect import Evidence
from .record import RECORD_NAME
from .retrained import RETRAINED_NAME, check_trained_without, is_record, load_retrained, retrained_config

WITHDRAWN_NAME = "model.withdrawn"


@dataclass(frozen=True)
class Candidate:
    """A model that may be published."""

    name: str
    """Which of the record's."""
    folder: Path
    config: EraseConfig

    @classmethod
    def of(cls, config: EraseConfig, scrub: Path, scrubbed: Path) -> Candidate:
        """The one that `publish` asks for. scrub: the run folder; scrubbed: its model."""
        if config.publish != "retrained":
            return cls("scrubbed", scrubbed, config)
        named = config.judge.retrained
        return cls("retrained", scrub / RETRAINED_NAME / "model" if named is None else Path(named), config)

    def require(self, evidence: Evidence) -> None:
        """Raises ThresholdError or NotShownError where the evidence does not bear its publication."""
        if self.name == "retrained":
            evidence.require_retrained_shown()
        elif self.config.publish == "shown":
            evidence.require_shown()
        else:
            evidence.require_within_limits()

    def copy(self, folder: Path, title: str, unscrubbed: Model, remain: DataStamp, evidence: Evidence) -> None:
        """Makes `folder` of it; its card says what came of the evaluation.

        Raises TrainingError for other weights than those evaluated, ConfigError for a retrained model of which it is
        not known that it never saw the forget set.
        """
        shutil.copytree(self.folder, folder)
        record = evidence.record
        found = Found(record.verdict, record.date, RECORD_NAME)
        if self.name == "retrained":
            model = load_retrained(retrained_config(folder, self.config.model, unscrubbed), unscrubbed)
            self._hold_to_evaluated(model, evidence)
            for unknown in check_trained_without(model, remain):
                raise ConfigError(f"publish = 'retrained': {unknown.partition('   ')[2]}: it is not published")
            forgotten = load_model(at(evidence.record.models["scrubbed"].path, self.config)).lineage.forgotten
            lineage = dataclasses.replace(model.lineage, forgotten=forgotten)
            write_lineage(lineage, folder)
            assert record.retrained_verdict is not None
            made = retrained(dataclasses.replace(found, verdict=record.retrained_verdict))
        else:
            model = load_model(at(folder, self.config))
            self._hold_to_evaluated(model, evidence)
            lineage, train = model.lineage, self.config.train
            made = scrubbed(self.config.method.name, train.max_train_steps, train.seed, found)
        write_model_card(folder, title, model, lineage, made)

    def _hold_to_evaluated(self, model: Model, evidence: Evidence) -> None:
        evaluated = evidence.record.models[self.name].stamp
        for what, found, was in differing(ModelStamp.of(model).hashes(), evaluated.hashes()):
            mend = "the scrub/ folder" if self.name == "scrubbed" else "it"
            raise TrainingError(
                f"'{self.folder}' holds {what} with SHA-256 {found}…, those evaluated had {was}…: "
                f"nothing is published; remove {mend} and run it again"
            )


def check_publish(config: EraseConfig) -> None:
    """Raises ConfigError where there will be no retrained model to publish."""
    judge = config.judge
    if config.publish != "retrained" or judge.with_retrained:
        return
    found = "no model is retrained" if judge.retrained is None else f"judge.retrained = '{judge.retrained}' is a record"
    if judge.retrained is None or is_record(judge):
        raise ConfigError(
            f"publish = 'retrained': {found}: set judge.with_retrained, or name a model's folder in judge.retrained"
        )


def at(folder: str | Path, config: EraseConfig) -> ModelConfig:
    """How a model that came of the one to scrub is loaded."""
    return dataclasses.replace(config.model, path=str(folder), revision=None)


def withdraw(model: Path, record: Path) -> None:
    """What was published on evidence before this no longer stands: it is kept under another name."""
    card = model / "README.md"  # written last
    if model.exists() and card.stat().st_mtime_ns < record.stat().st_mtime_ns:
        withdrawn = model.with_name(WITHDRAWN_NAME)
        if withdrawn.exists():
            shutil.rmtree(withdrawn)
        model.rename(withdrawn)
