"""Whether an evaluation that is there says what a new one would: the files behind its paths are still the same."""

from __future__ import annotations

from pathlib import Path

from ...shards.dataset import Dataset
from ..config import JudgeConfig, ModelConfig
from ..models.class_names import labels_of
from ..models.families import load_model
from ..models.fitting import fit
from ..run.provenance import ModelStamp
from .asking import Asking
from .classifier import load_classifier
from .clip_score import clip_sha256
from .detector import detector_card
from .features import features_sha256
from .finished import FinishedScrub
from .prompt_file import prompts_sha256
from .record import Record
from .retrained import RETRAINED_NAME, entry_of, is_record, read_retrained


def still_holds(record: Record, judge: JudgeConfig, data: str, run: Path, scrubbed: ModelConfig) -> bool:
    """Whether all that `record` was made with is still the same: the scrubbed model, and whatever lies behind paths.

    data: of every class; run: the scrub's run folder; scrubbed: how its pipeline is loaded. Raises ConfigError or
    DataError for a file that is gone.
    """
    if record.models["scrubbed"].stamp != _stamp(scrubbed):
        return False
    if judge.classifier is not None and load_classifier(Path(judge.classifier)).card != record.classifier:
        return False
    if features_sha256(judge.features) != record.features_sha256:
        return False
    if clip_sha256(judge.clip) != record.clip_sha256:
        return False
    if detector_card(judge.detector) != record.detector:
        return False
    if prompts_sha256(judge.prompts) != record.prompts_sha256:
        return False
    if prompts_sha256(judge.kept_prompts) != record.kept_prompts_sha256:
        return False
    factor = None if judge.factor is None else Dataset.open(judge.factor).fingerprint
    if factor != (record.factor and record.factor.fingerprint):
        return False
    if (
        judge.factor_classifier is not None
        and load_classifier(Path(judge.factor_classifier)).card != record.factor_classifier
    ):
        return False
    scrub = FinishedScrub.open(run)
    given = fit(Dataset.open(data), scrub.unscrubbed).data
    if record.data is None or record.data.fingerprint != given.fingerprint:
        return False
    if _asked(judge, scrub, given) != record.asked_sha256:
        return False
    held_out = None if judge.held_out is None else Dataset.open(judge.held_out).fingerprint
    if held_out != (record.held_out and record.held_out.fingerprint):
        return False
    if is_record(judge):
        return entry_of(read_retrained(judge)) == record.models.get("retrained")
    folder = run / RETRAINED_NAME / "model" if judge.with_retrained else judge.retrained
    retrained = record.models.get("retrained")
    if folder is None or retrained is None:
        return folder is None and retrained is None
    return retrained.stamp == _stamp(ModelConfig(str(folder), image_size=scrubbed.image_size))


def _asked(judge: JudgeConfig, scrub: FinishedScrub, data: Dataset) -> str | None:
    return Asking.of(judge, scrub.unscrubbed, data, labels_of(scrub.forget), labels_of(scrub.remain)).sha256


def _stamp(config: ModelConfig) -> ModelStamp:
    return ModelStamp.of(load_model(config))
