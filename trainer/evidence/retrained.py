"""The retrained model, which never saw the forget set. Trained here, named by its folder, or taken from a record."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ...shards.dataset import Dataset
from ...shards.errors import DataError
from ...shards.format.manifest import ImageShape
from ..config import JudgeConfig, ModelConfig, PretrainConfig, ScrubConfig
from ..config.toml import as_dict, decode, over_defaults, read_toml
from ..errors import ConfigError
from ..models.families import load_model
from ..models.fitting import class_list
from ..models.hashing import weights_sha256
from ..models.model import Model
from ..models.sampling import check_sampling
from ..pretrain import run_pretrain
from ..ranks import meeting
from ..run.provenance import DataStamp, Inputs, PretrainInputs, read_inputs
from .bench import Bench
from .detector import DetectorCard
from .finished import FinishedScrub
from .metrics import alone
from .prompt_file import prompts_sha256
from .record import ModelEntry, Record, read_record

RETRAINED_NAME = "retrained"  # its run folder, in the scrub's


def is_record(judge: JudgeConfig) -> bool:
    """Whether `judge.retrained` names a record rather than a model."""
    return judge.retrained is not None and judge.retrained.endswith(".json")


def read_retrained(judge: JudgeConfig) -> Record:
    """The record that `judge.retrained` names; ConfigError where it has no retrained model."""
    record = read_record(Path(str(judge.retrained)))
    if "retrained" not in record.models:
        raise ConfigError(
            f"judge.retrained = '{judge.retrained}' has no retrained model: name a record of an evaluation with "
            "judge.with_retrained"
        )
    return record


def recorded_retrained(inputs: Inputs, bench: Bench) -> ModelEntry:
    """The retrained model's figures out of the record that `judge.retrained` names, with their date.

    Raises ConfigError where they are of other samples, were measured otherwise, or are not there.
    """
    judge = bench.config
    record = read_retrained(judge)
    where = f"judge.retrained = '{judge.retrained}'"
    fingerprints = (inputs.forget.fingerprint, inputs.remain.fingerprint)
    if (record.forget.fingerprint, record.remain.fingerprint) != fingerprints:
        raise ConfigError(f"{where} is of another forget or remain set: train one for this")
    if record.models["unscrubbed"].stamp != inputs.base:
        # its integrity is the distance to that one's images
        raise ConfigError(f"{where} was measured beside another unscrubbed model: name the model's folder instead")
    if record.classifier != bench.classifier.card:
        raise ConfigError(
            f"{where} was judged by another classifier: name the classifier.safetensors of that run in judge.classifier"
        )
    if record.factor_classifier != (None if bench.factor is None else bench.factor.classifier.card):
        raise ConfigError(
            f"{where} was judged by another judge.factor_classifier: name one file in both, or the model's folder here"
        )
    if record.asked_sha256 != bench.asked_sha256:
        raise ConfigError(f"{where} was asked for by other prompts or captions: name the model's folder instead")
    for what, theirs, here in (
        ("features", record.features_sha256, bench.features.sha256),
        ("clip", record.clip_sha256, None if bench.clip is None else bench.clip.sha256),
        ("detector", _weights(record.detector), _weights(None if bench.detector is None else bench.detector.card)),
        ("held_out", _fingerprint(record.held_out), _fingerprint(bench.held_out_stamp)),
        ("prompts", record.prompts_sha256, prompts_sha256(judge.prompts)),
        ("kept_prompts", record.kept_prompts_sha256, prompts_sha256(judge.kept_prompts)),
        ("factor", _fingerprint(record.factor), _fingerprint(None if bench.factor is None else bench.factor.stamp)),
    ):
        if theirs != here:
            raise ConfigError(
                f"{where} was measured with other samples or weights behind judge.{what} ({(theirs or 'none')[:12]}… "
                f"there, {(here or 'none')[:12]}… here): figures compare only when measured alike"
            )
    # what an older record does not know was as it is by default
    ours, there = as_dict(judge), as_dict(JudgeConfig()) | over_defaults(JudgeConfig, record.judge)
    measured_by = ["sampling", "num_forget_samples_per_class", "num_remain_samples_per_class"]
    measured_by += ["features", "relearn", "near", "num_kept_samples", "detector_thresholds"]
    measured_by += [*(["relearning"] if judge.relearn else []), *(["attacks", "attacking"] if judge.attacks else [])]
    for key in measured_by:
        if _but_for_rounding(there[key]) != _but_for_rounding(ours[key]):
            raise ConfigError(
                f"{where} was measured with judge.{key} = {there[key]}, here it is {ours[key]}: "
                "figures compare only when measured alike"
            )
    return entry_of(record)


def entry_of(record: Record) -> ModelEntry:
    """The retrained model's, as another record has it: by itself."""
    entry = record.models["retrained"]
    return dataclasses.replace(entry, metrics={name: alone(figure) for name, figure in entry.metrics.items()})


def _weights(detector: DetectorCard | None) -> str | None:
    return None if detector is None else detector.weights_sha256


def _but_for_rounding(setting: Any) -> Any:
    """Without how many images are made at a time."""
    return {k: v for k, v in setting.items() if k != "batch_size"} if isinstance(setting, dict) else setting


def _fingerprint(data: DataStamp | None) -> str | None:
    return None if data is None else data.fingerprint


def retrain(scrub: ScrubConfig, unscrubbed: Model, output: Path) -> Path:
    """Trains a model on D_r with the settings the unscrubbed model was pretrained with; returns its folder.

    Its classes are those of `unscrubbed`, in that order. Continues or reuses the run in `output`. All ranks call it.
    Raises ConfigError where those settings are not known.
    """
    names, remain = class_list(unscrubbed), Dataset.open(scrub.remain)
    settings = dataclasses.replace(
        settings_of(Path(scrub.model.path)),
        data=scrub.remain,
        output=str(output),
        classes=() if names in ((), remain.classes) else names,
    )
    folder = run_pretrain(settings)
    meeting.check()
    return folder


def check_retrainable(unscrubbed: Model, data: Dataset) -> None:
    """Raises ConfigError where it cannot be trained here: settings unknown, images of another shape."""
    assert unscrubbed.folder is not None
    settings_of(unscrubbed.folder)
    if data.image_shape != ImageShape(unscrubbed.image_size, unscrubbed.image_size, unscrubbed.channels):
        raise ConfigError(
            f"judge.with_retrained: '{data.path}' holds images of another shape than the model makes, and a model is "
            "trained on data as they are: give data of the model's shape, or name a retrained model in judge.retrained"
        )


def settings_of(model: Path) -> PretrainConfig:
    """What the unscrubbed model was pretrained with; raises ConfigError where that is not known."""
    settings = pretrained_with(model)
    if settings is None:
        raise ConfigError(
            f"judge.with_retrained: '{model}' is not the model/ of an `erasediff pretrain` run, so how to "
            "train it again is not known: train it without D_f yourself and name its folder in judge.retrained"
        )
    return settings


def pretrained_with(model: Path) -> PretrainConfig | None:
    """The settings of the `pretrain` run whose model/ this is; None for any other model."""
    config = model.resolve().parent / "config.toml"
    if model.resolve().name != "model" or not config.exists():
        return None
    try:
        return decode(PretrainConfig, read_toml(config), str(config))
    except ConfigError:
        return None  # another command's run


def check_trained_without(retrained: Model, remain: DataStamp) -> list[str]:
    """Lines to say of what the retrained model was trained on: one where that is not known.

    Raises ConfigError where it is known to have been trained on other samples than D_r.
    """
    assert retrained.folder is not None
    known = _trained_on(retrained)
    if not known:
        return [
            f"retrained   what '{retrained.folder}' was trained on is not on record: whether it saw the forget set is "
            "not known"
        ]
    other = next((name for name, fingerprint in known if fingerprint != remain.fingerprint), None)
    if other is not None:
        raise ConfigError(
            f"judge.retrained = '{retrained.folder}' was trained on '{other}', which is not this run's remain set "
            f"'{remain.path}': it says nothing of this erasure"
        )
    return []


def _trained_on(model: Model) -> list[tuple[str, str]]:
    """Names and fingerprints of the data, of which several may have one name; none: not known."""
    if model.lineage.trained_on is not None:
        return [(data.name, data.fingerprint) for data in model.lineage.trained_on]
    assert model.folder is not None
    settings = pretrained_with(model.folder)
    if settings is None:
        return []
    # a run whose model was written before models had a lineage
    inputs = read_inputs(model.folder.resolve().parent, PretrainInputs)
    if inputs is not None:
        return [(inputs.data.path, inputs.data.fingerprint)]
    try:
        return [(settings.data, Dataset.open(settings.data).fingerprint)]
    except DataError:
        return []  # gone, or elsewhere


def named_retrained(options: JudgeConfig, unscrubbed: Model, config: ModelConfig) -> Model | None:
    """The model that `judge.retrained` names; None where it names a record, or nothing. config: the unscrubbed one's.

    Raises ConfigError where that is no record of a retrained model, or no model that compares.
    """
    if is_record(options):
        read_retrained(options)
    elif options.retrained is not None:
        model = load_retrained(retrained_config(options.retrained, config, unscrubbed), unscrubbed)
        check_sampling(options.sampling, model, "judge.sampling")
        return model
    return None


def trained_here(scrub: FinishedScrub) -> Model:
    """The model that `judge.with_retrained` asks for. All ranks call it."""
    folder = retrain(scrub.config, scrub.unscrubbed, scrub.run / RETRAINED_NAME)
    return load_retrained(retrained_config(folder, scrub.config.model, scrub.unscrubbed), scrub.unscrubbed)


def retrained_config(folder: str | Path, config: ModelConfig, unscrubbed: Model) -> ModelConfig:
    """How a retrained model is loaded, to be compared with `unscrubbed`, which `config` loaded."""
    return ModelConfig(str(folder), null_class=unscrubbed.null_class, image_size=config.image_size)


def load_retrained(config: ModelConfig, unscrubbed: Model) -> Model:
    """A model to compare with `unscrubbed`, sampled as that is: its own is what it was trained with, no more.

    Raises ConfigError for what is no model, one of other images or classes, and the unscrubbed model itself.
    """
    try:
        model = load_model(config)
    except ConfigError as error:
        raise ConfigError(str(error).replace("model.path", "judge.retrained")) from None
    if type(model) is not type(unscrubbed):
        raise ConfigError(
            f"judge.retrained = '{config.path}' is a {type(model).__name__}, the scrubbed model a "
            f"{type(unscrubbed).__name__}: they do not compare"
        )
    ours = (unscrubbed.image_size, unscrubbed.channels, unscrubbed.num_classes)
    theirs = (model.image_size, model.channels, model.num_classes)
    if ours != theirs:
        raise ConfigError(
            f"judge.retrained = '{config.path}' makes images of {theirs[0]} pixels, {theirs[1]} channels and "
            f"{theirs[2]} classes, the scrubbed model of {ours[0]}, {ours[1]} and {ours[2]}: they do not compare"
        )
    if weights_sha256(model.module.state_dict()) == weights_sha256(unscrubbed.module.state_dict()):
        raise ConfigError(f"judge.retrained = '{config.path}' is the model before scrubbing, which saw the forget set")
    for label, (theirs, ours) in enumerate(zip(model.class_names, unscrubbed.class_names, strict=False)):
        if None not in (theirs, ours) and theirs != ours:
            raise ConfigError(
                f"judge.retrained = '{config.path}' calls class {label} {theirs!r}, the scrubbed model {ours!r}: train "
                "it with the classes in that order (`erasediff pretrain --classes`)"
            )
    return model.sampled_like(unscrubbed)
