"""A finished scrub's evidence: the models side by side, the thresholds, record.json and report.html."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from ...shards.dataset import Dataset, same_content
from ..config import EngineConfig, EvaluateConfig, JudgeConfig, ModelConfig, ScrubConfig
from ..config.toml import as_dict, check_ranges, decode, read_toml
from ..errors import ConfigError, NotShownError, ThresholdError
from ..models.class_names import labels_of
from ..models.families import load_model
from ..models.fitting import Fitted, data_notes, fit
from ..models.lineage import forgotten_rows
from ..models.model import Model
from ..models.sampling import check_sampling
from ..ranks import collectives
from ..run.attempts import history
from ..run.effects import judge_effect_notes
from ..run.folder import is_finished
from ..run.identity import without_free
from ..run.provenance import (
    DataStamp,
    Inputs,
    now,
    read_inputs,
    versions,
    weights_sha256,
)
from . import report
from .bench import Bench
from .classifier import (
    Classifier,
    SmallCNN,
    classifier_name,
    load_classifier,
    train_classifier,
)
from .evaluation import Figures, evaluate, metric_names
from .features import make_features, network_features
from .images import Images
from .metrics import min_frechet_samples
from .record import (
    RECORD_NAME,
    STATEMENT,
    Copy,
    EarlierEntry,
    ModelEntry,
    Record,
    RequestEntry,
    RunEntry,
    schema_name,
    write_record,
)
from .retrained import (
    RETRAINED_NAME,
    check_retrainable,
    check_trained_without,
    is_record,
    read_yardstick,
    recorded_yardstick,
    retrain,
)
from .thresholds import (
    NOT_SHOWN,
    Threshold,
    check_thresholds,
    default_thresholds,
    judge,
    overall,
    parse_threshold,
    said,
)

CLASSIFIER_NAME = "classifier.safetensors"
REPORT_NAME = "report.html"
# real images that precision, recall and the Fréchet distance compare with, at most
MAX_REAL_IMAGES = 5_000


@dataclass(frozen=True)
class Scrubbed:
    """A finished scrub, opened: what was forgotten, from which model, into which."""

    run: Path
    config: ScrubConfig
    inputs: Inputs
    fitted_forget: Fitted
    fitted_remain: Fitted
    base: Model
    result: Model

    @property
    def forget(self) -> Dataset:
        return self.fitted_forget.data

    @property
    def remain(self) -> Dataset:
        return self.fitted_remain.data

    @classmethod
    def open(cls, run: Path) -> Scrubbed:
        """Raises ConfigError for a folder that is no finished scrub, or whose base is no longer what it was."""
        if not (run / "config.toml").exists():
            raise ConfigError(f"run = '{run}' is no run folder: it holds no config.toml")
        if (run / "scrub" / "config.toml").exists():
            raise ConfigError(f"run = '{run}' is an erasure, evaluated already: name its scrub, '{run / 'scrub'}'")
        config = decode(ScrubConfig, read_toml(run / "config.toml"), str(run / "config.toml"))
        inputs = read_inputs(run)
        if not is_finished(run) or inputs is None:
            raise ConfigError(f"run = '{run}' is not finished: give the scrub's command again, it continues")
        forget, remain = Dataset.open(config.forget), Dataset.open(config.remain)
        for ours, theirs, path in ((inputs.forget, forget, config.forget), (inputs.remain, remain, config.remain)):
            if ours.fingerprint != theirs.fingerprint:
                raise ConfigError(f"'{path}' holds other samples than when '{run}' was scrubbed: restore them")
        base = load_model(config.model)
        found = weights_sha256(base.module.state_dict())
        if found != inputs.base_weights_sha256:
            raise ConfigError(
                f"model.path = '{config.model.path}' is not the model that '{run}' scrubbed: its weights have SHA-256 "
                f"{found[:12]}…, the scrubbed one's had {inputs.base_weights_sha256[:12]}…; put the original back"
            )
        result = load_model(dataclasses.replace(config.model, path=str(run / "model"), revision=None))
        return cls(run, config, inputs, fit(forget, base), fit(remain, base), base, result)


@dataclass(frozen=True)
class Evidence:
    """What an evaluation found, and where it is written."""

    record: Record
    record_path: Path
    report_path: Path

    def require_within_limits(self) -> None:
        """Raises ThresholdError, naming each threshold that fails, NotShownError, naming each without a figure."""
        unheld = [verdict for verdict in self.record.thresholds if not verdict.passed]
        failed = [f"{verdict.threshold} ({said(verdict)})" for verdict in unheld if verdict.margin is not None]
        if failed:
            raise ThresholdError(f"{len(failed)} of {len(self.record.thresholds)} thresholds fail: {'; '.join(failed)}")
        if unheld:
            texts = "; ".join(f"{verdict.threshold} ({said(verdict)})" for verdict in unheld)
            raise NotShownError(f"forgetting is not shown: {texts}")

    def require_shown(self) -> None:
        """Raises ThresholdError where a threshold fails, NotShownError where forgetting and the rest are not shown."""
        self.require_within_limits()
        if self.record.verdict == "shown":
            return
        unsure = [f"{v.threshold} ({said(v)})" for v in self.record.thresholds if not v.shown]
        why = f"too few samples to say that it holds: {'; '.join(unsure)}" if unsure else NOT_SHOWN
        raise NotShownError(f"forgetting is not shown: {why}")


def run_evaluate(
    config: EvaluateConfig, *, output: Path | None = None, request: RequestEntry | None = None
) -> Evidence:
    """Evaluates a finished scrub; writes record.json and report.html into `output`, or into the run. All ranks call it.

    What comes of the thresholds is in the record; nothing is raised for one that fails. Raises ConfigError for what
    cannot be evaluated, before anything is computed.
    """
    check_ranges(config)
    options = config.judge
    _check_device(options)
    device = collectives.set_up(EngineConfig(device=options.device, num_threads=options.num_threads))
    scrubbed = Scrubbed.open(Path(config.run))
    output = output or scrubbed.run
    _check_options(options, scrubbed.base)
    if not os.access(output, os.W_OK):
        raise ConfigError(f"'{output}' may not be written: {RECORD_NAME} and {REPORT_NAME} go there")
    others = [Dataset.open(path) for path in (config.data, options.held_out) if path is not None]
    fitted = [scrubbed.fitted_forget, scrubbed.fitted_remain, *(fit(data, scrubbed.base) for data in others)]
    notes = data_notes(*fitted, first=labels_of(scrubbed.forget))
    yardstick = check_yardstick(options, scrubbed.base)
    if yardstick is not None:
        notes += check_trained_without(yardstick, scrubbed.inputs.remain)
    bench = make_bench(config, scrubbed, device)
    null_class = scrubbed.base.null_class
    notes += judge_effect_notes(options, forgets_classes=bench.forgets_classes, null_class=null_class)
    names = metric_names(options, bench.features.name, bench.forgets_classes)
    thresholds = _thresholds(options, names, bench.forgets_classes)
    if collectives.is_main():
        for note in notes:
            print(note)
    yardstick = _yardstick(options, scrubbed, bench, yardstick)  # trained only now that all else is known to be right

    date = now()
    figures: dict[str, Figures] = {"unscrubbed": evaluate(scrubbed.base, bench)}
    figures["scrubbed"] = evaluate(scrubbed.result, bench, figures["unscrubbed"].samples)
    entries = {
        name: _entry(model, figures[name], date)
        for name, model in (("unscrubbed", scrubbed.base), ("scrubbed", scrubbed.result))
    }
    if isinstance(yardstick, ModelEntry):
        entries["retrained"] = yardstick
    elif yardstick is not None:
        figures["retrained"] = evaluate(yardstick, bench, figures["unscrubbed"].samples)
        entries["retrained"] = _entry(yardstick, figures["retrained"], date)

    by_model = {name: entry.metrics for name, entry in entries.items()}
    verdicts = judge(thresholds, by_model)
    record = Record(
        schema=schema_name(),
        date=date,
        request=request or RequestEntry(),
        statement=STATEMENT,
        forgotten_classes=[scrubbed.forget.classes[i] for i in bench.forget_labels] if bench.forgets_classes else [],
        forget=scrubbed.inputs.forget,
        remain=scrubbed.inputs.remain,
        held_out=None if bench.held_out is None else bench.held_out_stamp,
        models=entries,
        thresholds=verdicts,
        verdict=overall(verdicts, by_model),
        run=run_entry(scrubbed.run),
        classifier=bench.classifier.card,
        config=without_free(as_dict(scrubbed.config)),
        judge=as_dict(options),
        remaining_copies=_remaining_copies(scrubbed, config.data, bench, output / REPORT_NAME),
        versions=versions(),
        class_map={} if scrubbed.fitted_remain.classes is None else scrubbed.fitted_remain.classes.labels,
        forgotten_before=[
            EarlierEntry(one.id, one.date, list(one.classes), len(one.keys)) for one in scrubbed.base.lineage.forgotten
        ],
        notes=notes,
    )
    # a judge's last bits may differ between machines: all ranks go by rank 0's verdict
    record = cast(Record, collectives.agree(record))
    found = Evidence(record, output / RECORD_NAME, output / REPORT_NAME)
    if collectives.is_main():
        if options.classifier is None:
            bench.classifier.save(scrubbed.run / CLASSIFIER_NAME)
        samples = {name: shown.samples for name, shown in figures.items()}
        report.write_report(record, samples, bench, _metrics_lines(scrubbed.run), found.report_path)
        write_record(record, found.record_path)
    collectives.barrier()
    return found


def check_judge(
    options: JudgeConfig,
    base: Model,
    data: Dataset,
    chosen: np.ndarray,
    remaining: np.ndarray,
    request: str,
) -> None:
    """What can be said of an evaluation before there is anything to evaluate; raises ConfigError.

    chosen: bool [N], the samples of `data` that are to be forgotten, as the file `request` says. remaining: bool [N],
    D_r, neither these nor what the model has forgotten before.
    """
    _check_device(options)
    _check_options(options, base)
    forget_labels = labels_of(data, chosen)
    still_there = labels_of(data, remaining)
    gone = _gone(forget_labels, still_there, data.classes, request)
    _check_asked(options, base, data, [data], forget_labels, len(still_there), bool(gone))


def _check_asked(
    options: JudgeConfig,
    base: Model,
    data: Dataset,
    trained_on: Sequence[Dataset],
    forget_labels: list[int],
    num_remaining: int,
    forgets_classes: bool,
) -> None:
    """Raises ConfigError for a judge, features, held-out samples or thresholds that cannot be; trains nothing."""
    judge_name = classifier_name(data) if options.classifier is None else _load_judge(options, data, base).card.name
    features, num_features = judge_name, SmallCNN.num_features
    if options.features != "classifier":
        network = network_features(options.features)
        features, num_features = network.name, network.num_features
    if options.held_out is not None:
        _open_held_out(options.held_out, base, trained_on, forget_labels)
    thresholds = _thresholds(options, metric_names(options, features, forgets_classes), forgets_classes)
    num_samples, needed = num_remaining * options.num_remain_samples_per_class, min_frechet_samples(num_features)
    of_distance = [threshold.text for threshold in thresholds if threshold.metric.startswith("frechet_distance")]
    if of_distance and num_samples < needed:
        raise ConfigError(
            f"judge.thresholds: {of_distance[0]!r} needs {needed:,} samples, and judge.num_remain_samples_per_class = "
            f"{options.num_remain_samples_per_class} of {num_remaining} classes makes {num_samples:,}: raise it, or "
            "give thresholds without that one"
        )
    if options.with_retrained:
        check_retrainable(base, trained_on[-1])


def check_yardstick(options: JudgeConfig, base: Model) -> Model | None:
    """The model that `judge.retrained` names; None where it names a record, or nothing.

    Raises ConfigError where that is no record of a retrained model, or no model that compares.
    """
    if is_record(options):
        read_yardstick(options)
    elif options.retrained is not None:
        model = load_yardstick(ModelConfig(options.retrained, null_class=base.null_class), base)
        check_sampling(options.sampling, model, "judge.sampling")
        return model
    return None


def _check_device(options: JudgeConfig) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("judge.device = 'cuda', but torch sees no CUDA device: use judge.device = 'cpu'")


def _check_options(options: JudgeConfig, base: Model) -> None:
    """Raises ConfigError for numbers out of range, and for a model that knows no classes."""
    base.conditions.of_class(0)
    check_sampling(options.sampling, base, "judge.sampling")
    if options.with_retrained and options.retrained is not None:
        raise ConfigError("judge.with_retrained trains the yardstick that judge.retrained names: give one of them")


def _thresholds(options: JudgeConfig, metrics: Sequence[str], forgets_classes: bool) -> list[Threshold]:
    """Those asked for, or the default ones; raises ConfigError where there is nothing to hold them against."""
    with_retrained = options.with_retrained or options.retrained is not None
    texts = options.thresholds or default_thresholds(metrics, forgets_classes, with_retrained)
    thresholds = [parse_threshold(text) for text in texts]
    check_thresholds(thresholds, metrics, with_retrained)
    return thresholds


def _gone(forget_labels: list[int], remaining: list[int], classes: Sequence[str], where: str) -> list[int]:
    """The classes of which nothing remains; ConfigError where others are forgotten in part."""
    gone = [label for label in forget_labels if label not in remaining]
    if gone and len(gone) < len(forget_labels):
        kept = next(label for label in forget_labels if label in remaining)
        raise ConfigError(
            f"'{where}' holds all of class {classes[gone[0]]} and a part of class {classes[kept]}: "
            "erase whole classes and single samples in two requests"
        )
    return gone


def make_bench(config: EvaluateConfig, scrubbed: Scrubbed, device: torch.device) -> Bench:
    """The judge and the real images; raises ConfigError where they do not fit the scrub."""
    options, base = config.judge, scrubbed.base
    data = fit(Dataset.open(config.data), base).data
    if data.classes != scrubbed.remain.classes:
        raise ConfigError(
            f"data = '{config.data}' has other classes than the run's remain set, '{scrubbed.config.remain}'"
        )
    forget_labels, remaining = labels_of(scrubbed.forget), labels_of(scrubbed.remain)
    gone = _gone(forget_labels, remaining, data.classes, scrubbed.config.forget)
    missing = sorted({*forget_labels, *remaining} - set(labels_of(data)))
    if missing:
        raise ConfigError(
            f"data = '{config.data}' has no sample of class {data.classes[missing[0]]}: the classifier must know all"
        )
    # the judge takes minutes to train: first all that can be known without it
    trained_on = [scrubbed.forget, scrubbed.remain]
    _check_asked(options, base, data, trained_on, forget_labels, len(remaining), bool(gone))
    classifier = _classifier(options, data, base)

    def images(dataset: Dataset, labels: Sequence[int] | None = None) -> Images:
        return Images.of_data(dataset, base, MAX_REAL_IMAGES, labels)

    held_out = stamp = None
    if options.held_out is not None:
        kept_apart = _open_held_out(options.held_out, base, trained_on, forget_labels)
        stamp = DataStamp.of(kept_apart)
        # the loss depends on the class: only samples of the same classes compare
        held_out = images(kept_apart, forget_labels)
    return Bench(
        config=options,
        classifier=classifier,
        features=make_features(options.features, classifier),
        forget_conditions={label: base.conditions.of_class(label) for label in gone or forget_labels},
        remain_conditions={label: base.conditions.of_class(label) for label in remaining},
        forgets_classes=bool(gone),
        real_remain=images(scrubbed.remain),
        real_forget=images(scrubbed.forget),
        held_out=held_out,
        held_out_stamp=stamp,
        device=device,
    )


def _open_held_out(path: str, base: Model, trained_on: Sequence[Dataset], forget_labels: list[int]) -> Dataset:
    """Raises ConfigError where a model was trained on one of its samples, or none is of a forgotten class."""
    held_out = fit(Dataset.open(path), base).data
    for dataset in trained_on:
        shared = sorted(set(held_out.keys) & set(dataset.keys))
        shared = shared or [held_out.key(row) for row, _ in same_content(held_out.index, dataset.index)]
        if shared:
            raise ConfigError(
                f"judge.held_out = '{path}' shares sample {shared[0]!r} with '{dataset.path}': "
                "held-out samples are those that no model was trained on"
            )
    seen = np.flatnonzero(
        forgotten_rows([dataclasses.replace(one, classes={}) for one in base.lineage.forgotten], held_out)
    )
    if len(seen):
        raise ConfigError(
            f"judge.held_out = '{path}' holds sample {held_out.key(int(seen[0]))!r}, which the model has forgotten "
            "before: held-out samples are those that no model was trained on"
        )
    if held_out.classes != trained_on[0].classes:
        raise ConfigError(f"judge.held_out = '{path}' has other classes than '{trained_on[0].path}'")
    if not set(labels_of(held_out)) & set(forget_labels):
        raise ConfigError(f"judge.held_out = '{path}' has no sample of the forgotten classes")
    return held_out


def _classifier(options: JudgeConfig, data: Dataset, base: Model) -> Classifier:
    if options.classifier is None:
        return train_classifier(data, image_size=base.image_size, channels=base.channels)
    return _load_judge(options, data, base)


def _load_judge(options: JudgeConfig, data: Dataset, base: Model) -> Classifier:
    """The classifier that `judge.classifier` names; ConfigError where it does not fit the data or the model."""
    classifier = load_classifier(Path(str(options.classifier)))
    card = classifier.card
    if (card.image_size, card.channels) != (base.image_size, base.channels):
        raise ConfigError(
            f"judge.classifier = '{options.classifier}' takes images of {card.image_size} pixels and {card.channels} "
            f"channels, the model makes {base.image_size} pixels and {base.channels} channels: leave it out"
        )
    if card.classes != data.classes:
        raise ConfigError(f"judge.classifier = '{options.classifier}' knows other classes than the data: leave it out")
    return classifier


def _yardstick(
    options: JudgeConfig, scrubbed: Scrubbed, bench: Bench, named: Model | None
) -> ModelEntry | Model | None:
    """The recorded figures, or the model, `named` or trained now if asked to, or nothing."""
    if is_record(options):
        return recorded_yardstick(options, scrubbed.inputs, bench.classifier.card)
    if options.with_retrained:
        folder = retrain(scrubbed.config, scrubbed.base, scrubbed.run / RETRAINED_NAME)
        return load_yardstick(ModelConfig(str(folder), null_class=scrubbed.base.null_class), scrubbed.base)
    return named


def load_yardstick(config: ModelConfig, base: Model) -> Model:
    """A model to compare with `base`, sampled as that is: its own is what it was trained with, no more.

    Raises ConfigError for what is no model, one of other images or classes, and the unscrubbed model itself.
    """
    try:
        model = load_model(config)
    except ConfigError as error:
        raise ConfigError(str(error).replace("model.path", "judge.retrained")) from None
    ours = (base.image_size, base.channels, base.num_classes)
    theirs = (model.image_size, model.channels, model.num_classes)
    if ours != theirs:
        raise ConfigError(
            f"judge.retrained = '{config.path}' makes images of {theirs[0]} pixels, {theirs[1]} channels and "
            f"{theirs[2]} classes, the scrubbed model of {ours[0]}, {ours[1]} and {ours[2]}: they do not compare"
        )
    if weights_sha256(model.module.state_dict()) == weights_sha256(base.module.state_dict()):
        raise ConfigError(f"judge.retrained = '{config.path}' is the model before scrubbing, which saw the forget set")
    for label, (theirs, ours) in enumerate(zip(model.class_names, base.class_names, strict=False)):
        if None not in (theirs, ours) and theirs != ours:
            raise ConfigError(
                f"judge.retrained = '{config.path}' calls class {label} {theirs!r}, the scrubbed model {ours!r}: train "
                "it with the classes in that order (`erasediff pretrain --classes`)"
            )
    return model.sampled_like(base)


def _entry(model: Model, figures: Figures, date: str) -> ModelEntry:
    return ModelEntry(
        path=str(model.folder),
        # of the weights in memory, that the samples came from
        weights_sha256=weights_sha256(model.module.state_dict()),
        measured=date,
        metrics=figures.metrics,
        num_non_finite=figures.num_non_finite,
        relearning=figures.relearning,
    )


def _metrics_lines(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def run_entry(run: Path) -> RunEntry:
    """What the metrics and the attempts tell of a finished run."""
    lines, starts = _metrics_lines(run), history(run)

    def count(flag: str) -> int:
        return sum(line.get(flag) == 1 for line in lines)

    return RunEntry(
        num_steps=len(lines),
        capped_steps=count("capped"),
        infeasible_steps=count("infeasible"),
        skipped_steps=count("skipped"),
        interruptions=max(len(starts) - 1, 0),
        starts=starts,
    )


def _remaining_copies(scrubbed: Scrubbed, data: str, bench: Bench, report_path: Path) -> list[Copy]:
    """What still holds the forgotten samples or weights trained on them."""
    config = scrubbed.config
    copies = [
        Copy(config.model.path, "the model before scrubbing"),
        Copy(config.forget, "the forget set"),
    ]
    base = Path(config.model.path).resolve()
    if base.name == "model":  # of a run folder
        copies += [
            Copy(str(path), "a checkpoint of that model") for path in sorted(base.parent.glob("attempt-*/checkpoint-*"))
        ]
    files = {path.resolve() for dataset in (scrubbed.remain, Dataset.open(data)) for path in dataset.files.paths}
    purged = {path.resolve() for folder in (config.forget, config.remain) for path in Path(folder).glob("*.tar")}
    copies += [
        Copy(str(path), "a shard of the data, which may hold forgotten samples") for path in sorted(files - purged)
    ]
    copies += [
        Copy(str(path), "a checkpoint of the scrub, whose weights may not be scrubbed yet")
        for path in sorted(scrubbed.run.glob("attempt-*/checkpoint-*"))
    ]
    if bench.classifier.card.data_fingerprint != scrubbed.inputs.remain.fingerprint:
        judge = bench.config.classifier or str(scrubbed.run / CLASSIFIER_NAME)
        copies.append(Copy(judge, "the judge, a classifier trained on the forgotten samples too"))
    if bench.forgets_classes:
        copies.append(Copy(str(report_path), "the report, which shows a few of the forgotten samples"))
    return copies
