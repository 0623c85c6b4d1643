"""What still holds the forgotten: copies to delete, or to keep for a stated reason."""

from __future__ import annotations

from pathlib import Path

from ...shards.dataset import Dataset
from .bench import Bench
from .finished import FinishedScrub
from .record import Copy

CLASSIFIER_NAME = "classifier.safetensors"


def remaining_copies(scrub: FinishedScrub, data: str, bench: Bench, report_path: Path) -> list[Copy]:
    """What still holds the forgotten samples or weights trained on them."""
    config = scrub.config
    copies = [
        Copy(config.model.path, "the model before scrubbing"),
        Copy(config.forget, "the forget set"),
    ]
    base = Path(config.model.path).resolve()
    if base.name == "model":  # of a run folder
        copies += [
            Copy(str(path), "a checkpoint of that model") for path in sorted(base.parent.glob("attempt-*/checkpoint-*"))
        ]
    files = {path.resolve() for dataset in (scrub.remain, Dataset.open(data)) for path in dataset.files.paths}
    purged = {path.resolve() for folder in (config.forget, config.remain) for path in Path(folder).glob("*.tar")}
    copies += [
        Copy(str(path), "a shard of the data, which may hold forgotten samples") for path in sorted(files - purged)
    ]
    copies += [
        Copy(str(path), "a checkpoint of the scrub, whose weights may not be scrubbed yet")
        for path in sorted(scrub.run.glob("attempt-*/checkpoint-*"))
    ]
    if bench.classifier.card.data_fingerprint != scrub.inputs.remain.fingerprint:
        judge = bench.config.classifier or str(scrub.run / CLASSIFIER_NAME)
        copies.append(Copy(judge, "the judge, a classifier trained on the forgotten samples too"))
    if bench.forgets_classes:
        copies.append(Copy(str(report_path), "the report, which shows a few of the forgotten samples"))
    return copies
