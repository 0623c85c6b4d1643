"""What an erasure publishes: the scrubbed model, or the retrained one in its place, to the bit what was evaluated."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import ModelCard

from ..config import EraseConfig, ModelConfig
from ..config.toml import decode
from ..errors import ConfigError, TrainingError
from ..models.card import CARD_NAME, Found, model_card, retrained, scrubbed
from ..models.families import load_model
from ..models.lineage import write_lineage
from ..models.model import Model
from ..run.folder import PARTIAL_NAME
from ..run.provenance import DataStamp, ModelStamp, differing
from .collect import Evidence
from .copies import SCRUB_NAME, WITHDRAWN_NAME
from .ledger import (
    Publication,
    Withdrawal,
    append,
    entry_path,
    file_hashes,
    named_in_card,
    published,
    read_entries,
    sha256_of,
)
from .record import Place, Record, schema_name
from .retrained import RETRAINED_NAME, check_trained_without, is_record, load_retrained, retrained_config


@dataclass(frozen=True)
class Candidate:
    """A model that may be published."""

    name: Literal["scrubbed", "retrained"]
    """Which of the record's."""
    folder: Path
    config: EraseConfig

    @classmethod
    def of(cls, config: EraseConfig) -> Candidate:
        """The one that `publish` asks for."""
        scrub = Path(config.output) / SCRUB_NAME
        if config.publish != "retrained":
            return cls("scrubbed", scrub / "model", config)
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

    def copy(self, folder: Path, place: Path, unscrubbed: Model, remain: DataStamp, evidence: Evidence) -> None:
        """Makes `folder` of it, which is to appear as `place`, and adds the entry that its card names.

        Raises TrainingError for other weights than those evaluated, ConfigError for a retrained model of which it is
        not known that it never saw the forget set.
        """
        shutil.copytree(self.folder, folder)
        record = evidence.record
        verdict = record.verdict
        if self.name == "retrained":
            model = load_retrained(retrained_config(folder, self.config.model, unscrubbed), unscrubbed)
            self._hold_to_evaluated(model, evidence)
            for unknown in check_trained_without(model, remain):
                raise ConfigError(f"publish = 'retrained': {unknown.partition('   ')[2]}: it is not published")
            forgotten = load_model(at(evidence.record.models["scrubbed"].path, self.config)).lineage.forgotten
            write_lineage(dataclasses.replace(model.lineage, forgotten=forgotten), folder)
            assert record.retrained_verdict is not None
            verdict = record.retrained_verdict
        else:
            self._hold_to_evaluated(load_model(at(folder, self.config)), evidence)
        files = file_hashes(folder, but=CARD_NAME)

        def entry(where: Place) -> Publication:
            return Publication(
                schema=schema_name(),
                place=where,
                kind="publication",
                request=record.request.id,
                evaluation=record.place.number,
                published=self.name,
                verdict=verdict,
                model=str(place.resolve()),
                files=files,
            )

        output = evidence.record_path.parent
        standing = published(read_entries(output))
        is_said = standing is not None and standing.evaluation == record.place.number and standing.files == files
        if standing is None or not is_said:  # said already, where a kill came in between
            standing = append(output, entry)
        digest = sha256_of(entry_path(output, standing.place.number))
        card_of(folder, standing, digest, record).save(folder / CARD_NAME)

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


def withdraw(model: Path, evidence: Evidence) -> None:
    """What was published on evidence before this no longer stands: it is kept under another name."""
    output, by = evidence.record_path.parent, evidence.record.place.number
    standing = published(read_entries(output))
    if standing is None or standing.evaluation == by:
        return
    withdrawn, begun = model.with_name(WITHDRAWN_NAME), model.with_name(PARTIAL_NAME)
    # what a kill kept from appearing was said to be published all the same
    is_begun = begun.exists() and file_hashes(begun, but=CARD_NAME) == standing.files
    if model.exists() or is_begun:
        if withdrawn.exists():
            shutil.rmtree(withdrawn)
        (model if model.exists() else begun).rename(withdrawn)
    elif not withdrawn.exists() or file_hashes(withdrawn, but=CARD_NAME) != standing.files:
        return  # a person has moved it away
    append(
        output,
        lambda place: Withdrawal(
            schema=schema_name(),
            place=place,
            kind="withdrawal",
            publication=standing.place.number,
            evaluation=by,
            model=str(withdrawn.resolve()),
        ),
    )


def card_of(folder: Path, entry: Publication, digest: str, record: Record) -> ModelCard:
    """The card of a published model, from the entry that published it, its SHA-256, and the evaluation it rests on.

    Raises ConfigError where the folder holds no model.
    """
    config = decode(ModelConfig, record.config["model"], "the record's config.model")
    if entry.published == "retrained":
        config = ModelConfig("", image_size=config.image_size)
    model = load_model(dataclasses.replace(config, path=str(folder), revision=None))
    found = Found(entry.verdict, record.date, named_in_card(entry.place.number, digest))
    method, train = record.config["method"], record.config["train"]
    made = scrubbed(method["name"], train["max_train_steps"], train["seed"], found)
    if entry.published == "retrained":
        made = retrained(found)
    return model_card(Path(entry.model).parent.name, model, model.lineage, made)
