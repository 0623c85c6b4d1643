"""Every copy of what was forgotten that is known of: samples, and weights trained on them. Reached, or still to go."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...shards.dataset import Dataset
from ..config.toml import read_toml
from ..errors import ConfigError
from ..run.attempts import read_attempts
from ..run.reporting import sent_to_wandb, wandb_id
from .bench import Bench
from .finished import FinishedScrub
from .ledger import published, read_entries
from .record import Copy, CopyReach, Reach
from .retrained import RETRAINED_NAME
from .thresholds import Overall

CLASSIFIER_NAME = "classifier.safetensors"
CONCEPT_NAME = "concept"  # of the folder that is drawn into, in an erasure's
SCRUB_NAME = "scrub"  # the scrub's run folder in an erasure's
REPORT_NAME = "report.html"
PUBLISHED_NAME = "model"
WITHDRAWN_NAME = "model.withdrawn"


def copies_of(scrub: FinishedScrub, data: str, bench: Bench, output: Path, verdict: Overall) -> list[Copy]:
    """Those that are there. output: the folder of the records; what lies in it is this erasure's own."""
    config, scrubbed = scrub.config, scrub.run / "model"
    reach = "reached" if verdict == "shown" else _whose(scrubbed, output)
    found = [
        Copy(config.forget, "the forget set", _whose(config.forget, output)),
        Copy(str(scrubbed), f"the scrub's model, its weights or their average: forgetting is {verdict}", reach),
    ]
    found += _found(scrub.run.glob("attempt-*/checkpoint-*"), "a checkpoint of the scrub, not scrubbed yet", output)
    found += _found(scrub.run.glob("attempt-*/model.*"), "a model of the scrub that does not count", output)
    retrained = scrub.run / RETRAINED_NAME
    if retrained.exists():
        found.append(Copy(str(retrained), "the retrained model, which never saw them", "reached"))
    trained = scrub.run / CLASSIFIER_NAME
    judge = bench.config.classifier or str(trained)
    if bench.classifier.card.data_fingerprint != scrub.inputs.remain.fingerprint:
        found.append(Copy(judge, "the judge, a classifier trained on the forgotten samples too", _whose(judge, output)))
    if Path(judge).resolve() != trained.resolve():
        found += _found([trained], "the judge of an evaluation before, which may have seen them", output)
    other = bench.config.factor_classifier
    if other is not None:
        found.append(Copy(other, "the judge of another factor, which may have seen them", _whose(other, output)))
    found += _pictures(scrub.run, output)
    standing = published(read_entries(output))
    if standing is not None and standing.published == "scrubbed":
        found.append(published_copy(str(output / PUBLISHED_NAME), verdict))
    if bench.forgets_classes:
        report = output / REPORT_NAME
        found.append(Copy(str(report), "pictures of the forgotten in the report", _whose(report, output)))
    if (output / CONCEPT_NAME).exists():
        found.append(Copy(str(output / CONCEPT_NAME), "what the model drew for the request", "not reached"))
    found += _found([output / WITHDRAWN_NAME], "a model that was published and withdrawn", output)
    found += _of_base(scrub, output)
    found += _shards(scrub, data, bench.config.factor, output)
    return _once(found)


def published_copy(path: str, verdict: Overall) -> Copy:
    """Of a published model, by what its evidence comes to."""
    reach = "reached" if verdict == "shown" else "not reached"
    return Copy(path, f"the published model: forgetting is {verdict}", reach)


def reach_of(copies: list[Copy]) -> Reach:
    """partial, unless all are reached."""
    return "complete" if all(copy.reach == "reached" for copy in copies) else "partial"


def _whose(path: str | Path, output: Path) -> CopyReach:
    return "not reached" if Path(path).resolve().is_relative_to(output.resolve()) else "not ours"


def _found(paths: Iterable[Path], holds: str, output: Path) -> list[Copy]:
    return [Copy(str(path), holds, _whose(path, output)) for path in sorted(paths) if path.exists()]


def _once(copies: list[Copy]) -> list[Copy]:
    """The first that is said of each path."""
    return [*{Path(copy.path).resolve(): copy for copy in reversed(copies)}.values()][::-1]


def _pictures(run: Path, output: Path) -> list[Copy]:
    """What `train.sample_every` drew, and where it was sent."""
    if not _draws(run):
        return []
    found = _found([run / "samples"], "pictures that the run drew on its way, of the forgotten, too", output)
    found += _found([run / "tensorboard", run / "wandb"], "the same pictures, beside the run's figures", output)
    kept = "the same pictures, kept by Weights & Biases"
    return found + [Copy(f"wandb://{name}", kept, "not ours") for name in _sent(run)]


def _draws(run: Path) -> bool:
    # the pictures may have been removed, and what was sent is where it was
    return (run / "samples").exists() or any(_of_starts(run, "sample_every"))


def _sent(run: Path) -> list[str]:
    if any("wandb" in named for named in _of_starts(run, "report_to")) and not (run / "wandb").exists():
        return [wandb_id(run)]
    return sent_to_wandb(run)


def _of_starts(run: Path, option: str) -> list[Any]:
    """What each start of a run had for an option of `train` that may change from start to start, where it is known."""
    first = _settings(run).get("train")
    found = [first.get(option) if isinstance(first, dict) else None]
    for attempt in read_attempts(run):
        with suppress(ConfigError):  # a damaged one says nothing, and may be of a run long past
            manifest = attempt.manifest()
            found.append(None if manifest is None else manifest.settings.get(f"train.{option}"))
    return [value for value in found if value is not None]


def _shards(scrub: FinishedScrub, data: str, factor: str | None, output: Path) -> list[Copy]:
    datasets = [scrub.remain, Dataset.open(data), *([] if factor is None else [Dataset.open(factor)])]
    files = {path.resolve() for dataset in datasets for path in dataset.files.paths}
    purged = {
        path.resolve() for folder in (scrub.config.forget, scrub.config.remain) for path in Path(folder).glob("*.tar")
    }
    return _found(
        sorted(files - purged), "a shard of the data, which may hold forgotten samples and latents of them", output
    )


def _of_base(scrub: FinishedScrub, output: Path) -> list[Copy]:
    """The model before, where it is stored, and what is left of the runs that it came from."""
    given, folder = scrub.config.model.path, scrub.unscrubbed.folder
    assert folder is not None
    found = [Copy(given, "the model before scrubbing", _whose(given, output))] if Path(given).exists() else []
    if not Path(given).exists() or folder.resolve() != Path(given).resolve():
        found.append(Copy(str(folder), f"the model before scrubbing, {given}, in a cache", "not ours"))
    return found + _of_past(folder, output, seen=set())


def _of_past(model: Path, output: Path, seen: set[Path]) -> list[Copy]:
    """What lies beside a model that a run made, and beside the models which that one came from."""
    run = model.resolve().parent
    if model.resolve().name != "model" or run in seen or not (run / "config.toml").exists():
        return []
    seen.add(run)
    found = _found(run.glob("attempt-*/checkpoint-*"), "a checkpoint of that model", output)
    found += _found([run / "start"], "what that model's training began with: its autoencoder saw the data", output)
    found += _found([run / WITHDRAWN_NAME], "a model withdrawn after an earlier request, which saw them", output)
    scrub = run / SCRUB_NAME
    if (scrub / "config.toml").exists():  # an erasure's folder
        found += _found([scrub / "model"], "a copy of that model", output)
        found += _found(scrub.glob("attempt-*/checkpoint-*"), "a checkpoint of an earlier request's scrub", output)
    for folder in (run, scrub):
        found += _pictures(folder, output)
        found += _found([folder / CLASSIFIER_NAME], "the judge of an earlier request, which may have seen them", output)
        found += _found([folder / RETRAINED_NAME], "an earlier request's retrained model, which saw them", output)
    before = _model_before(run)
    if before is not None:
        found += _found([before], "the model before an earlier request", output)
        found += _of_past(before, output, seen)
    return found


def _model_before(run: Path) -> Path | None:
    """The one that a run began with; None: it trained one from nothing, or it is not known."""
    model = _settings(run).get("model")
    path = model.get("path") if isinstance(model, dict) else None
    return Path(path) if isinstance(path, str) and Path(path).exists() else None


def _settings(run: Path) -> dict[str, Any]:
    """Empty where they cannot be read."""
    try:
        return read_toml(run / "config.toml")
    except ConfigError:
        return {}
