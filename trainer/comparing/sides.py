"""The model and the sets that all rows of a comparison share, and what they were all measured by."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...shards.dataset import Dataset
from ..config import CompareConfig, JudgeConfig, ScrubConfig
from ..config.toml import as_dict
from ..evidence.asking import Asking
from ..evidence.classifier import load_classifier
from ..files import alone
from ..models.class_names import labels_of
from ..models.families import load_model
from ..models.fitting import Fitted, fit
from ..models.model import Model
from ..ranks import collectives
from ..run.provenance import DataStamp, ModelStamp

_CLASSIFIERS = frozenset({"classifier", "factor_classifier"})
_PATHS = _CLASSIFIERS | {"retrained", "held_out", "factor", "prompts", "kept_prompts", "features", "clip"}


@dataclass(frozen=True)
class Sides:
    """What `make_bench` asks for."""

    config: ScrubConfig
    unscrubbed: Model
    fitted_forget: Fitted
    fitted_remain: Fitted

    @classmethod
    def of(cls, config: ScrubConfig) -> Sides:
        model = load_model(config.model)
        return cls(config, model, *(fit(Dataset.open(path), model) for path in (config.forget, config.remain)))

    @property
    def forget(self) -> Dataset:
        return self.fitted_forget.data

    @property
    def remain(self) -> Dataset:
        return self.fitted_remain.data


@contextmanager
def alone_together(config: CompareConfig, what: str) -> Iterator[None]:
    """Inside, no other comparison that writes there makes the same. All ranks call it.

    They wait by asking again: in a collective none may be waited for as long as the other one may take.
    """
    with ExitStack() as held:

        def claim() -> bool:
            try:
                held.enter_context(alone(Path(config.output), f".{what}", waits=False))
            except BlockingIOError:
                return False
            return True

        while not collectives.on_main(claim):
            time.sleep(0.5)
        yield


# another word where verdicts come about otherwise, so that one table has one kind
_VERDICTS = "by paired differences, none without an interval"


def hash_of_path(path: Path) -> str:
    """Of a dataset its fingerprint; of another folder and of a file SHA-256 of what is in it."""
    if (path / "dataset.json").exists():
        return Dataset.open(path).fingerprint
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(f"{file.relative_to(path)} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def measured_by(asked: JudgeConfig, judge: JudgeConfig, sides: Sides, data: Dataset) -> str:
    """SHA-256 of all that a model's figures depend on beside it. judge: with the classifier that is there now."""
    # how the judge was made is in its weights, which are behind its path
    left_out = ("device", "num_threads", "architecture", "resnet")
    named = {name: path for name, path in as_dict(judge).items() if _is_path(name, path)}
    given = fit(data, sides.unscrubbed).data
    asking = Asking.of(asked, sides.unscrubbed, given, labels_of(sides.forget), labels_of(sides.remain))
    stamps = {
        "judge": {key: value for key, value in as_dict(asked).items() if key not in left_out},
        "base": ModelStamp.of(sides.unscrubbed).hashes(),
        "sets": [DataStamp.of(part).fingerprint for part in (sides.forget, sides.remain)],
        "data": DataStamp.of(data).fingerprint,
        # whatever lies behind the same paths
        "named": {name: _hash(name, Path(path)) for name, path in named.items()},
        "verdicts": _VERDICTS,
    } | ({} if asking.sha256 is None else {"asked": asking.sha256})
    return hashlib.sha256(json.dumps(stamps, sort_keys=True).encode()).hexdigest()


def _hash(name: str, path: Path) -> str:
    # the same weights are not always stored in the same bytes
    return load_classifier(path).card.weights_sha256 if name in _CLASSIFIERS else hash_of_path(path)


def _is_path(name: str, value: object) -> bool:
    """Whether a judge's option names a file or folder, whose content counts."""
    return name in _PATHS and isinstance(value, str) and Path(value).exists()
