"""A finished scrub's evidence: the models side by side, the thresholds, record.json and report.html."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...shards.dataset import Dataset
from ..config import EngineConfig, EvaluateConfig, JudgeConfig
from ..config.toml import as_dict, check_ranges, read_toml
from ..errors import ConfigError, NotShownError, ThresholdError
from ..models.card import Found, scrubbed, write_model_card
from ..models.class_names import labels_of
from ..models.fitting import data_notes, fit, names_notes
from ..models.model import Model
from ..ranks import collectives
from ..run.effects import judge_effect_notes
from ..run.identity import without_free
from ..run.provenance import ModelStamp, now, versions
from . import report
from .advice import advice
from .copies import CLASSIFIER_NAME, REPORT_NAME, SCRUB_NAME, copies_of, reach_of
from .evaluation import Figures, evaluate, metric_names
from .finished import FinishedScrub, metrics_lines, run_entry
from .ledger import append, entry_of_card, next_place, read_entries
from .making import make_bench
from .metrics import Measurement
from .options import check_device, check_options, thresholds_of
from .pairing import related
from .prompt_file import prompts_sha256
from .record import (
    RECORD_NAME,
    STATEMENT,
    EarlierEntry,
    Link,
    ModelEntry,
    Place,
    Record,
    RequestEntry,
    schema_name,
)
from .retrained import check_trained_without, is_record, named_retrained, recorded_retrained, trained_here
from .thresholds import Overall, Verdict, hold, overall, said, why_not_shown


@dataclass(frozen=True)
class Evidence:
    """What an evaluation found, and where it is written."""

    record: Record
    record_path: Path
    report_path: Path

    def require_within_limits(self) -> None:
        """Raises ThresholdError, naming each threshold that fails, NotShownError, naming each without a figure."""
        _require_within_limits(self.record.thresholds)

    def require_shown(self) -> None:
        """Raises ThresholdError where a threshold fails, NotShownError where forgetting and the rest are not shown."""
        _require_shown(self.record.thresholds, self.record.verdict)

    def require_retrained_shown(self) -> None:
        """The same of the retrained model."""
        assert self.record.retrained_verdict is not None
        try:
            _require_shown(self.record.retrained_thresholds, self.record.retrained_verdict)
        except ThresholdError as error:
            raise type(error)(f"of the retrained model: {error}") from None


def _require_within_limits(thresholds: Sequence[Verdict]) -> None:
    unheld = [verdict for verdict in thresholds if not verdict.passed]
    failed = [f"{verdict.threshold} ({said(verdict)})" for verdict in unheld if verdict.margin is not None]
    if failed:
        raise ThresholdError(f"{len(failed)} of {len(thresholds)} thresholds fail: {'; '.join(failed)}")
    if unheld:
        raise NotShownError(f"forgetting is not shown: {why_not_shown(thresholds)}")


def _require_shown(thresholds: Sequence[Verdict], verdict: Overall) -> None:
    _require_within_limits(thresholds)
    if verdict != "shown":
        raise NotShownError(f"forgetting is not shown: {why_not_shown(thresholds)}")


def check(config: EvaluateConfig) -> None:
    """Raises ConfigError or DataError for what cannot be evaluated, the device aside; writes nothing."""
    check_ranges(config)
    _open(config, None)


def places(config: EvaluateConfig) -> tuple[Path, Path]:
    """(the scrub's run folder, the folder of its records): the same, but for an erasure, whose chain goes on.

    Whichever of an erasure's two is named.
    """
    run = Path(config.run)
    erasure = run.parent / "config.toml"
    if run.name == SCRUB_NAME and erasure.exists() and "request" in read_toml(erasure):
        return run, run.parent
    scrub = run / SCRUB_NAME
    return (scrub, run) if (scrub / "config.toml").exists() else (run, run)


def _open(config: EvaluateConfig, output: Path | None) -> tuple[FinishedScrub, Path, list[str], Model | None]:
    """The scrub, the folder for its record, what is to be said before, and the retrained model where one is named."""
    options = config.judge
    run, own = places(config)
    scrub, output = FinishedScrub.open(run), output or own
    check_options(options, scrub.unscrubbed)
    if not os.access(output, os.W_OK):
        raise ConfigError(f"'{output}' may not be written: {RECORD_NAME} and {REPORT_NAME} go there")
    next_place(output)
    others = [Dataset.open(path) for path in (config.data, options.held_out) if path is not None]
    fitted = [scrub.fitted_forget, scrub.fitted_remain, *(fit(data, scrub.unscrubbed) for data in others)]
    notes = names_notes(scrub.unscrubbed) + data_notes(*fitted, first=labels_of(scrub.forget))
    retrained = named_retrained(options, scrub.unscrubbed, scrub.config.model)
    if retrained is not None:
        notes += check_trained_without(retrained, scrub.inputs.remain)
    return scrub, output, notes, retrained


def run_evaluate(
    config: EvaluateConfig,
    *,
    output: Path | None = None,
    request: RequestEntry | None = None,
    notes: Sequence[str] = (),
) -> Evidence:
    """Evaluates a finished scrub; adds an entry to the records in `output`, or in the run. All ranks call it.

    An erasure's run is its scrub's, and the records are the erasure's. request: the one that it answers; None: that of
    the entries before. notes: what is to be said of it beside its own.

    What comes of the thresholds is in the record; nothing is raised for one that fails. Raises ConfigError for what
    cannot be evaluated, before anything is computed.
    """
    check_ranges(config)
    options = config.judge
    check_device(options)
    device = collectives.set_up(EngineConfig(device=options.device, num_threads=options.num_threads))
    scrub, output, own_notes, retrained = collectives.together(lambda: _open(config, output))
    notes = [*notes, *own_notes]
    bench = make_bench(config, scrub, device)
    has_null = scrub.unscrubbed.conditions.has_null
    notes += bench.notes + judge_effect_notes(options, forgets_classes=bench.forgets_classes, has_null=has_null)
    names = metric_names(
        options, bench.instruments, bench.forgets_classes, bench.earlier, has_phrasings=bool(bench.phrasings)
    )
    thresholds = thresholds_of(options, names, bench.forgets_classes)
    if notes and collectives.is_main():
        print("\n".join(notes))
    recorded = recorded_retrained(scrub.inputs, bench) if is_record(options) else None
    date = now()
    figures: dict[str, Figures] = {"unscrubbed": evaluate(scrub.unscrubbed, bench)}
    if options.with_retrained:  # only now that all else is known to be right
        retrained = trained_here(scrub)
    figures["scrubbed"] = evaluate(scrub.scrubbed, bench, figures["unscrubbed"].samples)
    measured = {"unscrubbed": scrub.unscrubbed, "scrubbed": scrub.scrubbed}
    if recorded is None and retrained is not None:
        figures["retrained"] = evaluate(retrained, bench, figures["unscrubbed"].samples)
        measured["retrained"] = retrained
    entries = {name: _entry(measured[name], metrics, figures[name], date) for name, metrics in related(figures).items()}
    if recorded is not None:
        entries["retrained"] = recorded

    by_model = {name: entry.metrics for name, entry in entries.items()}
    verdicts = hold(thresholds, by_model)
    verdict = overall(verdicts, by_model)
    of_retrained = hold(thresholds, by_model, "retrained") if "retrained" in entries else []
    verdict_of_retrained = overall(of_retrained, by_model) if "retrained" in entries else None
    # figures of a record are of no model that is here
    publishable = None if retrained is None or check_trained_without(retrained, scrub.inputs.remain) else retrained
    request = request or _request_before(output)
    copies = copies_of(scrub, config.data, bench, output, verdict)
    record = Record(
        schema=schema_name(),
        place=Place.of(0, None),
        kind="evaluation",
        date=date,
        follows=_followed(scrub.unscrubbed),
        request=request,
        statement=STATEMENT,
        forgotten_classes=[scrub.forget.classes[i] for i in bench.forget_labels] if bench.forgets_classes else [],
        forget=scrub.inputs.forget,
        remain=scrub.inputs.remain,
        held_out=None if bench.held_out is None else bench.held_out_stamp,
        models=entries,
        thresholds=verdicts,
        verdict=verdict,
        retrained_thresholds=of_retrained,
        retrained_verdict=verdict_of_retrained,
        advice=advice(
            scrub.config,
            verdicts,
            verdict,
            null_class=scrub.unscrubbed.null_class,
            forgets_classes=bench.forgets_classes,
            publishes=None if publishable is None else verdict_of_retrained,
        ),
        run=run_entry(scrub.run),
        classifier=bench.classifier.card,
        config=without_free(as_dict(scrub.config)),
        judge=as_dict(options),
        copies=copies,
        reach=reach_of(copies),
        versions=versions(),
        class_map={} if scrub.fitted_remain.classes is None else scrub.fitted_remain.classes.labels,
        forgotten_before=[
            EarlierEntry(one.id, one.date, list(one.classes), len(one.keys), num_measured)
            for one, num_measured in zip(scrub.unscrubbed.lineage.forgotten, bench.earlier.num_measured, strict=True)
        ],
        notes=notes,
        features_sha256=bench.features.sha256,
        clip_sha256=None if bench.clip is None else bench.clip.sha256,
        detector=None if bench.detector is None else bench.detector.card,
        prompts_sha256=prompts_sha256(options.prompts),
        kept_prompts_sha256=prompts_sha256(options.kept_prompts),
        data=bench.data,
        asked_sha256=bench.asked_sha256,
        factor=None if bench.factor is None else bench.factor.stamp,
        factor_classifier=None if bench.factor is None else bench.factor.classifier.card,
    )
    given = [config.data, request.path, record.forget.path, record.remain.path, *_paths_of(options)]
    given += [entry.path for entry in entries.values()]
    files = [copy.path for copy in copies if not copy.is_with_a_service]
    paths = _absolute([path for path in given if path and Path(path).exists()] + files)
    record = dataclasses.replace(record, absolute_paths=paths, forget_samples=_contents(scrub.forget))

    def write(place: Place) -> Record:
        placed = dataclasses.replace(record, place=place)
        samples = {name: shown.samples for name, shown in figures.items()}
        report.write_report(placed, samples, bench, metrics_lines(scrub.run), output / REPORT_NAME)
        return placed

    def write_all() -> Record:
        if options.classifier is None:
            bench.classifier.save(scrub.run / CLASSIFIER_NAME)
        # first the card: a kill before the entry leaves an evaluation that is made again
        _say_in_the_card(scrub, record)
        return append(output, write)

    # a judge's last bits may differ between machines: all ranks go by rank 0's verdict
    return Evidence(collectives.on_main(write_all), output / RECORD_NAME, output / REPORT_NAME)


def _request_before(output: Path) -> RequestEntry:
    """That of the evaluations before; empty where there are none."""
    records = [entry for entry in read_entries(output) if isinstance(entry, Record)]
    return records[-1].request if records else RequestEntry()


def _followed(unscrubbed: Model) -> Link | None:
    assert unscrubbed.folder is not None
    found = entry_of_card(unscrubbed.folder)
    return None if found is None else Link(str(found[0]), found[1])


def _paths_of(judge: JudgeConfig) -> list[str | None]:
    files = [judge.retrained, judge.classifier, judge.held_out, judge.factor, judge.factor_classifier]
    return [*files, judge.features, judge.clip, judge.prompts, judge.kept_prompts]


def _absolute(given: Sequence[str]) -> dict[str, str]:
    """Where each path leads."""
    return {path: str(Path(path).resolve()) for path in given}


def _contents(forget: Dataset) -> dict[str, str]:
    hashes = [value.tobytes().hex() for value in forget.index["content_hash"]]
    return dict(zip(forget.keys, hashes, strict=True))


def _say_in_the_card(scrub: FinishedScrub, record: Record) -> None:
    """No folder calls its model scrubbed that has failed."""
    train = scrub.config.train
    found = Found(record.verdict, record.date, RECORD_NAME)
    made = scrubbed(scrub.config.method.name, train.max_train_steps, train.seed, found)
    folder = scrub.run / "model"
    write_model_card(folder, scrub.run.resolve().name, scrub.scrubbed, scrub.scrubbed.lineage, made)


def _entry(model: Model, metrics: dict[str, Measurement], figures: Figures, date: str) -> ModelEntry:
    stamp = ModelStamp.of(model)  # of the weights in memory, that the samples came from
    return ModelEntry(
        path=str(model.folder),
        weights_sha256=stamp.weights_sha256,
        frozen_sha256=stamp.frozen_sha256,
        measured=date,
        metrics=metrics,
        num_non_finite=figures.num_non_finite,
        relearning=figures.relearning,
    )
