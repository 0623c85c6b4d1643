"""`erase`: an erasure request carried from its list of samples to a published model, or to a record of why not.

    OUTPUT/config.toml                 the resolved settings
    OUTPUT/concept/                    of a request of words: what the model drew for it, and what it is asked for
    OUTPUT/split/                      D_f and D_r, as the request selects them
    OUTPUT/scrub/                      the scrub's run folder
    OUTPUT/records/                    the evidence: an entry for each evaluation, publication and withdrawal
    OUTPUT/record.json, report.html    the newest evaluation
    OUTPUT/model/                      the published pipeline: there only if the evidence allows it, see `publish`
    OUTPUT/model.withdrawn/            what was published there, where a new evaluation says otherwise

Each stage that is done is not done again: the same command continues after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..shards.dataset import Dataset
from ..shards.requests.request import Request, read_request
from ..shards.requests.select import select
from ..shards.requests.split import FORGET_NAME, REMAIN_NAME, REQUEST_NAME, split
from .concepts.erasing import DRAWN, WordsErasure, drawing_notes
from .concepts.generate import as_request, run_generate
from .concepts.request import is_concept_request
from .config import EraseConfig, EvaluateConfig, ScrubConfig
from .config.toml import as_dict, check_ranges, dump_toml
from .errors import ConfigError, ThresholdError
from .evidence.collect import Evidence, run_evaluate
from .evidence.copies import REPORT_NAME, SCRUB_NAME
from .evidence.ledger import read_entries, show_newest
from .evidence.options import check_judge
from .evidence.over import OVER, of_another_request, over
from .evidence.publication import Candidate, at, check_publish, withdraw
from .evidence.record import RECORD_NAME, Record, RequestEntry, read_record
from .evidence.retrained import check_trained_without, named_retrained
from .evidence.reuse import still_holds
from .files import sha256_of
from .models.class_names import labels_of
from .models.conditions import distinct
from .models.families import load_model
from .models.fitting import data_notes, fit, names_notes
from .models.lineage import describe_forgotten, forgotten_rows
from .models.model import Model
from .ranks import collectives, meeting
from .ranks.freed_memory import give_back
from .run.effects import again_notes, effect_notes
from .run.folder import RunFolder
from .run.identity import without_free
from .run.loop import Watch
from .run.provenance import DataStamp, ModelStamp
from .scrubbing import check_settings, run_scrub


@dataclass(frozen=True)
class Erasure:
    """A request that was carried out: its evidence, and the published model."""

    evidence: Evidence
    model: Path


@dataclass(frozen=True)
class _Plan:
    """A request that has been read and checked: nothing is written."""

    request: Request
    given: Dataset
    model: Model
    chosen: np.ndarray
    """bool [len(given)]: D_f."""
    forgotten_before: np.ndarray
    """bool [len(given)]: in neither set."""


def check(config: EraseConfig) -> None:
    """Raises ConfigError or DataError where the run would be refused, its device aside; writes nothing."""
    check_ranges(config)
    check_publish(config)
    if over(config) is not None:
        return
    words = _words(config)
    if words is not None:
        words.check()
        if not words.is_drawn:
            return
        config = words.on_samples()
    planned = _plan(config, words)
    retrained = named_retrained(config.judge, planned.model, config.model)
    remain = Path(config.output) / "split" / REMAIN_NAME
    if retrained is not None and remain.exists():
        check_trained_without(retrained, DataStamp.of(Dataset.open(remain)))


def dry_run(config: EraseConfig) -> str:
    """What `--dry-run` prints. Raises ConfigError or DataError where the run would be refused; writes nothing."""
    collectives.check_device(config.engine)
    check(config)
    if over(config) is not None:
        return "\n".join([dump_toml(config).rstrip(), "", OVER])
    words = _words(config)
    if words is not None and not words.is_drawn:
        return "\n".join([dump_toml(words.on_samples()).rstrip(), "", *words.describe(), *_describe(config)])
    config = config if words is None else words.on_samples()
    planned = _plan(config, words)
    counts = {"forget": planned.chosen, "remain": ~(planned.chosen | planned.forgotten_before)}
    counts |= {"left out": planned.forgotten_before & ~planned.chosen}
    told = [f"{name:<12}{np.count_nonzero(rows):,} of {len(planned.given):,} samples" for name, rows in counts.items()]
    forget = fit(planned.given.only(planned.chosen), planned.model)
    told += [*names_notes(planned.model), *data_notes(forget, first=labels_of(forget.data))]
    again = again_notes(planned.model, forget.data)
    return "\n".join([dump_toml(config).rstrip(), "", *told, *again, *_describe(config)])


def _describe(config: EraseConfig) -> list[str]:
    cost = config.method.cost(config.engine.precision)
    steps = f"{config.train.max_train_steps:,} of them, over batches of {config.train.train_batch_size}"
    on_cuda = collectives.is_on_cuda(config.engine)
    effects = effect_notes(config.method, config.train, config.optimizer, config.engine, on_cuda=on_cuda)
    return [f"iteration   {cost}; {steps}", *effects, *config.method.notes(), *drawing_notes(config)]


def _words(config: EraseConfig) -> WordsErasure | None:
    """The erasure, where its request is words."""
    return WordsErasure.of(config) if is_concept_request(Path(config.request)) else None


def _plan(config: EraseConfig, words: WordsErasure | None) -> _Plan:
    request = read_request(Path(config.request)) if words is None else as_request(words.request)
    given = Dataset.open(_data(config))
    chosen = select(given, request)
    model = load_model(config.model)
    data = fit(given, model).data
    forgotten_before = forgotten_rows(model.lineage.forgotten, data, model.conditions.of_dataset)
    remaining = ~(chosen | forgotten_before)
    conditions = [distinct(model.conditions.of_dataset(data, rows)) for rows in (chosen, remaining)]
    check_settings(config, model, *conditions)
    check_judge(config.judge, model, data, chosen, remaining, config.request)
    return _Plan(request, given, model, chosen, forgotten_before)


def run_erase(
    config: EraseConfig, *, watch: Watch | None = None, before_evaluation: Callable[[], None] | None = None
) -> Erasure:
    """Splits, scrubs, evaluates and publishes; continues where an earlier call stopped. All ranks call it.

    watch: of the scrub's loop. before_evaluation: called when the scrub is done (what the evaluation needs may still
    be in the making).

    Raises ThresholdError, publishing nothing, where the evidence does not hold what was asked, NotShownError where it
    does not show it and `publish` asks for that (what an earlier evaluation published is withdrawn); ConfigError or
    DataError for a request, a model or data that cannot work, before anything is written; for a retrained model
    that was trained on other samples than D_r, before the scrub.
    """
    check_ranges(config)
    check_publish(config)
    device = collectives.set_up(config.engine)
    found = collectives.on_main(lambda: over(config))
    if found is not None:
        Candidate.of(config).require(found)
        return Erasure(found, Path(config.output) / "model")
    asked, words = config, collectives.together(lambda: _words(config))
    if words is not None:
        collectives.together(words.check)
        RunFolder(asked, asked.output)
        run_generate(words.drawing)
        meeting.check()
        config = words.on_samples()
    planned = collectives.together(lambda: _plan(config, words))
    given, model, forgotten_before = planned.given, planned.model, planned.forgotten_before
    retrained = None
    if before_evaluation is None:
        retrained = collectives.together(lambda: named_retrained(config.judge, model, config.model))
    run = RunFolder(asked, asked.output)
    for note in drawing_notes(asked) if collectives.is_main() else ():
        print(note)
    sets = run.path / "split"
    collectives.on_main(lambda: _split(planned, sets))
    if retrained is not None:  # hours before the evaluation asks
        stamp = collectives.together(lambda: DataStamp.of(Dataset.open(sets / REMAIN_NAME)))
        collectives.together(lambda: check_trained_without(retrained, stamp))
    left_out = int(np.count_nonzero(forgotten_before & ~planned.chosen))
    if left_out and collectives.is_main():
        told = describe_forgotten(model.lineage.forgotten)
        print(f"left out    {left_out:,} samples that the model has forgotten before ({told})")
    scrub = ScrubConfig(
        model=config.model,
        forget=str(sets / FORGET_NAME),
        remain=str(sets / REMAIN_NAME),
        output=str(run.path / SCRUB_NAME),
        method=config.method,
        train=config.train,
        optimizer=config.optimizer,
        engine=config.engine,
    )
    scrubbed = run_scrub(scrub, watch=watch)
    give_back(device)  # hooks hold the weights in circles, and the evaluation loads its own
    meeting.check()
    if before_evaluation is not None:
        before_evaluation()
    evidence = collectives.on_main(lambda: _recorded(run.path, config, Path(scrub.output), scrubbed))
    if evidence is None:
        entry = _request_entry(config, planned.request, given, planned.chosen)
        judged = EvaluateConfig(run=scrub.output, data=_data(config), judge=config.judge)
        evidence = run_evaluate(judged, output=run.path, request=entry, notes=[] if words is None else [DRAWN])
    candidate = Candidate.of(config)
    try:
        candidate.require(evidence)
    except ThresholdError as error:
        error.advice = evidence.record.advice
        collectives.on_main(lambda: withdraw(run.model_path, evidence))
        raise
    if not run.is_finished:
        remain = DataStamp.of(Dataset.open(sets / REMAIN_NAME))
        run.publish_model(lambda folder: candidate.copy(folder, run.model_path, model, remain, evidence))
    else:
        collectives.on_main(lambda: _hold_published_to(candidate, run.model_path, evidence))
    return Erasure(evidence, run.model_path)


def _hold_published_to(candidate: Candidate, published: Path, evidence: Evidence) -> None:
    """Raises ConfigError where an earlier call published another model than this one would."""
    evaluated = evidence.record.models[candidate.name].stamp
    if ModelStamp.of(load_model(at(published, candidate.config))) != evaluated:
        raise ConfigError(
            f"'{published}' is not the {candidate.name} model that this call would publish: move it away, and the "
            "same command publishes"
        )


def _data(config: EraseConfig) -> str:
    if config.data is None:
        raise ConfigError(f"data: '{config.request}' selects samples: name the dataset folder that they are in")
    return config.data


def _split(planned: _Plan, sets: Path) -> None:
    """Makes D_f and D_r, or finds them. Raises ConfigError for those of another request or other data."""
    data, request = planned.given, planned.request
    if not sets.exists():
        split(data, sets, request=request, left_out=planned.forgotten_before)
        return
    recorded = json.loads((sets / REQUEST_NAME).read_text(encoding="utf-8"))
    if recorded["request"] != _plain(request):
        raise of_another_request(sets.parent, request.name)
    if recorded["dataset"]["fingerprint"] != data.fingerprint:
        raise ConfigError(
            f"output = '{sets.parent}' was begun with other data than '{data.path}' holds now: choose another output"
        )
    remaining = ~(planned.chosen | planned.forgotten_before)
    for name, rows in ((FORGET_NAME, planned.chosen), (REMAIN_NAME, remaining)):
        if not np.array_equal(np.sort(Dataset.open(sets / name).index["key"]), np.sort(data.index["key"][rows])):
            raise ConfigError(
                f"output = '{sets.parent}': its {name} set is not what '{request.name}' selects now: captions or "
                "metadata have changed since; choose another output"
            )


def _plain(request: Request) -> dict[str, Any]:
    """As `split` wrote it down."""
    return json.loads(json.dumps(asdict(request), default=str))


def _recorded(output: Path, config: EraseConfig, run: Path, scrubbed: Path) -> Evidence | None:
    """An earlier call's evidence, where it is on these very models, judge and samples; None: evaluate."""
    path, judge = output / RECORD_NAME, _but_for_rounding(as_dict(config.judge))
    if path.exists():
        read_record(path)  # of an older erasediff: refused
    for record in reversed(read_entries(output)):
        # another one may have been added by `evaluate`
        if isinstance(record, Record) and _but_for_rounding(record.judge) == judge:
            holds = still_holds(record, config.judge, _data(config), run, at(scrubbed, config))
            show_newest(output)
            return Evidence(record, path, output / REPORT_NAME) if holds else None
    return None


def _but_for_rounding(judge: dict[str, Any]) -> dict[str, Any]:
    return without_free({"judge": judge})


def _request_entry(config: EraseConfig, request: Request, data: Dataset, chosen: np.ndarray) -> RequestEntry:
    asked = {key for selector in request.selectors for key in selector.keys}
    found = asked & {data.key(int(row)) for row in np.flatnonzero(chosen)}
    return RequestEntry(
        id=request.id,
        date=request.date.isoformat() if request.date else None,
        reason=request.reason,
        path=config.request,
        sha256=sha256_of(Path(config.request)),
        keys_asked=len(asked),
        keys_found=len(found),
    )
